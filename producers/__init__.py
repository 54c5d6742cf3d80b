"""Everything that puts work on Kafka and waits for answers: publisher, request/reply client, bulk scoring."""
