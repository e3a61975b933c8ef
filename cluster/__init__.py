"""Where it runs: Ray sessions, executors and the supervisor that decides over attempts. Knows no sweep."""
