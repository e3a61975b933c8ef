"""A law through a table of runs: designs judged, exact optima, honest intervals, what the residuals and larger runs say."""
