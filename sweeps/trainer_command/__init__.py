"""`trainer: {command: ...}`: runs that another program trains, under the run folder's contract (docs/trainer-command.md)."""
