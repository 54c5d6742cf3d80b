"""ClickHouse tables and queries, and the mathematics on them. Imports `schemas` only."""
