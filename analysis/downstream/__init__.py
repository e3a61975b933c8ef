"""What a loss is worth in tasks."""
