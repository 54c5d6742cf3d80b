-- Which version calls more flights right?
SELECT variant, count() AS flights, avg((score > 0.5) = (value > 0.5)) AS correct, avg(value > 0.5) AS late,
    avg(score > 0.5) AS called_late
FROM labelled_predictions
WHERE experiment = 'flight-delay-mlp' AND outcome = 'arr_delay_15'
GROUP BY variant ORDER BY variant
