"""Measurements that need no broker, each a module that prints JSON: `python -m benchmarks.experiments_sql`."""
