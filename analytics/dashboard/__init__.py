"""The page of the process that holds the warehouse: questions to ClickHouse, what they found, and how it is shown."""
