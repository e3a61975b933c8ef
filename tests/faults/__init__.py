"""Faults, brought about in real sweeps: what is killed, stopped, filled or damaged, and what must hold after it.

sweep.py        the sweep, the command that launches it, and its processes
injection.py    inside the product's processes: gates that hold a worker in a state, and the ledger of what it did
gates.py        outside: arm a gate, wait until a process is held there, let it go
ledger.py       every step, commit and kill, in order
standing.py     a Ray cluster whose second node can be killed and come back
kills.py        who can be killed, in each state of a run and at random moments
invariants.py   what must hold after every fault
figures.py      kills, recoveries, steps redone, seconds lost
experiments.py  all of these together, for the tests and for `python -m tests.faults`, which prints the figures
"""
