"""The ways in which a command ends early.

Unusable input (2), a failed write (1), an unhealthy run (3), a run asked to stop (143).
"""


class InputError(Exception):
    """Input that cannot be used; its text is one sentence: expected, found, where, what to do. Exit code 2."""


class OutputError(Exception):
    """A failed write: no space, a quota, a limit, a failing disk; its text is one sentence. Exit code 1."""


class UnhealthyRun(Exception):
    """Pretraining that has collapsed or is no longer finite; its text gives the evidence. Exit code 3."""


class Stopped(Exception):
    """A run that was stopped by SIGTERM and saved a checkpoint; it can be resumed. Exit code 143."""
