"""What a run did, for reading: the summary, tables, and sentences about who was slow."""
