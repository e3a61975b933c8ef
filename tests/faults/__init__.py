"""Faults, brought about in real sweeps: what is killed, stopped, filled or damaged, and what must hold after it.

sweep.py        the sweep, the command that launches it, and what an undisturbed launch comes to
injection.py    inside the product's processes: gates that hold a worker in a state, and the ledger of what it did
gates.py        outside: arm a gate, wait until a process is held there, let it go
ledger.py       every step, commit and kill, in order
surroundings.py Ray nodes and a tracking server that can be killed and come back
invariants.py   what must hold after every fault
figures.py      kills, recoveries, steps redone, seconds lost: `python -m tests.faults` prints them
"""
