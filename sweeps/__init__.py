"""What to run: SweepSpec -> runs -> segments; plan, launch, status, tracking; the `isoloss` command."""
