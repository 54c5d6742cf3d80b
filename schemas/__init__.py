"""What crosses a process boundary: Avro records, their codec, topics and partitioning. Imports nothing of ours."""
