"""What to train, when serving, limits and money are counted: `recommend` and what it is made of."""
