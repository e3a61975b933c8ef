"""Errors that a person can act on. The command turns each into one message and an exit code."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message names the file, field and value, and says what would be right (exit 2)."""


class Fenced(Exception):
    """Another owner has taken this run or sweep over: whoever gets this must stop writing at once."""


class Diverged(Exception):
    """A loss or gradient turned non-finite, or every recent update was skipped: the run ends so, and stays out of fits."""


class Preempted(Exception):
    """The process was asked to leave; the run stands in a checkpoint, from which another attempt goes on."""
