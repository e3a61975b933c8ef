"""Where the best model lies at a budget, by each of Hoffmann et al.'s approaches."""
