-- Is the difference more than chance?
WITH per_aircraft AS
(
    SELECT user_id, any(variant) AS variant, sum((score > 0.5) = (value > 0.5)) AS y, count() AS x
    FROM labelled_predictions
    WHERE experiment = 'flight-delay-mlp' AND user_id != '' AND outcome = 'arr_delay_15'
    GROUP BY user_id
),
arms AS
(
    SELECT variant, count() AS n, sum(y) / sum(x) AS r,
        (varSamp(y) - 2 * r * covarSamp(y, x) + r * r * varSamp(x)) / (n * pow(avg(x), 2)) AS variance
    FROM per_aircraft GROUP BY variant
)
SELECT anyIf(r, variant = 'logistic') AS logistic, anyIf(r, variant = 'mlp') AS mlp, mlp - logistic AS difference,
    sqrt(sum(variance)) AS standard_error, difference / standard_error AS z
FROM arms
