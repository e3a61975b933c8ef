"""Which runs there are: one tidy table from a sweep, a file or an MLflow store."""
