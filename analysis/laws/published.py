"""Published fits, for what is asked of a law before there are runs of one's own."""

from __future__ import annotations

#: Chinchilla's law as Besiroglu et al. 2024 (arXiv 2404.10102) refitted it to Hoffmann et al.'s 240 runs; N counts all
#: parameters (`n_params`), 44M to 16B, and C = 6 N D.
BESIROGLU = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
