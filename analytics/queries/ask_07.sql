-- How good are the probabilities?
SELECT variant, count() AS flights,
    avg(-if(value > 0.5, log(greatest(score, 1e-7)), log(greatest(1 - score, 1e-7)))) AS log_loss,
    avg(pow(score - value, 2)) AS brier, arrayAUC(groupArray(score), groupArray(toUInt8(value))) AS auc
FROM labelled_predictions
WHERE experiment = 'flight-delay-mlp' AND outcome = 'arr_delay_15' AND isFinite(score)
GROUP BY variant ORDER BY variant
