-- On which days did it go wrong?
SELECT toDate(extract(request_id, '/([0-9]{4}-[0-9]{2}-[0-9]{2})-')) AS day, count() AS flights, avg(score) AS mean_score,
    avg(value) AS late,
    avg(-if(value > 0.5, log(greatest(score, 1e-7)), log(greatest(1 - score, 1e-7)))) AS log_loss
FROM labelled_predictions
WHERE model = 'flight-delay' AND outcome = 'arr_delay_15'
GROUP BY day ORDER BY log_loss DESC LIMIT 5
