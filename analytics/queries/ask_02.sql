-- Did everybody meet the variant that their hash gives?
WITH assumeNotNull((SELECT argMax(body, revision) FROM control_history
                    WHERE kind = 'experiment' AND name = 'flight-delay-mlp')) AS body,
    JSONExtract(body, 'variants', 'Array(Tuple(name String, ranges Array(Tuple(UInt16, UInt16))))') AS variants,
    xxh3(JSONExtractString(body, 'salt') || ':' || user_id) % 10000 AS bucket,
    arrayFirst(v -> arrayExists(r -> bucket >= r.1 AND bucket < r.2, v.2), variants).1 AS recomputed
SELECT variant AS logged, recomputed, uniqExact(user_id) AS aircraft, count() AS flights
FROM predictions WHERE experiment = 'flight-delay-mlp' AND user_id != ''
GROUP BY logged, recomputed ORDER BY logged, recomputed
