"""`isoloss tune`: Optuna searches whose trials are ordinary runs. Learning rate and batch by size and horizon, or shapes."""
