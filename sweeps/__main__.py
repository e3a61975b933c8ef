"""`python -m sweeps` is `isoloss`."""

from sweeps.command import main

main()
