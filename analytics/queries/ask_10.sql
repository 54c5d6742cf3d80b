-- What has changed within the month?
WITH days AS
(
    SELECT score, categories['carrier'] AS carrier,
        toDayOfMonth(toDate(extract(request_id, '/([0-9]{4}-[0-9]{2}-[0-9]{2})-'))) AS day
    FROM predictions WHERE model = 'flight-delay' AND code = 'OK' AND isFinite(score)
),
bins AS
(
    SELECT 'score' AS feature, toString(least(toUInt32(score * 10), 9)) AS bin,
        countIf(day <= 10) AS before, countIf(day > 20) AS after FROM days GROUP BY bin
    UNION ALL
    SELECT 'carrier', carrier, countIf(day <= 10), countIf(day > 20) FROM days GROUP BY carrier
)
SELECT feature, count() AS bins, sum((a - b) * log(a / b)) AS stability_index
FROM
(
    SELECT feature, greatest(toFloat64(before), 0.5) / sum(before) OVER (PARTITION BY feature) AS b,
        greatest(toFloat64(after), 0.5) / sum(after) OVER (PARTITION BY feature) AS a
    FROM bins
)
GROUP BY feature ORDER BY feature
