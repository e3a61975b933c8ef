"""Where a sweep may run, what fits there and how fast it goes: what plans know of machines. No torch, no Ray."""
