"""Two recipes or corpora beside each other."""
