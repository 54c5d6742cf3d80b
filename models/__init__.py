"""A model from artifact to batch answer: store, signature, session, batching, routing. No Kafka, no database."""
