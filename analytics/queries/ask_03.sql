-- Is the split the one that was planned?
SELECT countIf(variant = 'logistic') AS logistic, countIf(variant = 'mlp') AS mlp, countIf(crossed) AS met_both,
    pow(logistic - (logistic + mlp) / 2, 2) / ((logistic + mlp) / 2) * 2 AS chi_square
FROM experiment_units WHERE experiment = 'flight-delay-mlp'
