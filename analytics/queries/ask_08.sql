-- Does a score of 30% mean 30%?
SELECT least(toUInt32(score * 10), 9) / 10 AS score_from, count() AS flights, avg(score) AS mean_score, avg(value) AS late
FROM labelled_predictions
WHERE experiment = 'flight-delay-mlp' AND variant = 'mlp' AND outcome = 'arr_delay_15'
GROUP BY score_from ORDER BY score_from
