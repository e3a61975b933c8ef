"""Which runs to make next: what each would narrow of a decision, for what it costs, and when to stop."""
