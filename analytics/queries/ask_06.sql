-- What do the looks at the experiment say?
SELECT metric, variant, units, events, value
FROM experiment_metrics WHERE experiment = 'flight-delay-mlp'
ORDER BY metric, variant
