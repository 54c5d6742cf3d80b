-- What was scored, and how much of it came true?
SELECT p.variant, p.version, count() AS flights, uniqExactIf(p.user_id, p.user_id != '') AS aircraft,
    countIf(o.request_id != '') AS arrived, avgIf(o.value, o.request_id != '') AS late
FROM predictions AS p
LEFT JOIN (SELECT request_id, value FROM outcomes FINAL WHERE name = 'arr_delay_15') AS o
    ON p.request_id = o.request_id
WHERE p.model = 'flight-delay' AND p.code = 'OK'
GROUP BY p.variant, p.version ORDER BY p.variant
