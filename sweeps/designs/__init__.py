"""What to run: the YAML's spec, and from it the sizes, budgets, runs and segments. Nothing here trains, times or costs."""
