"""Laws that made runs are drawn from, by parameter: L = E + A N^-alpha + B D^-beta."""

from analysis.laws.published import BESIROGLU as BESIROGLU

#: Hoffmann et al. 2022 (2203.15556) as Sardana et al.'s code has it.
HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283}
#: Near what a pilot of tiny models on CPUs showed.
PILOT = {"A": 2500.0, "B": 500.0, "E": 1.9, "alpha": 0.8, "beta": 0.48}
