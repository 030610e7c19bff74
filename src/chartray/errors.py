"""The ways a command ends early.

Unusable input (2), a machine that cannot write (1), a run that must not go on (3), a run asked to stop (143).
"""


class InputError(Exception):
    """Input that cannot be used; its text is one sentence: expected, found, where, what to do. Exit code 2."""


class OutputError(Exception):
    """What the machine could not write: no room, a quota, a limit, a disk that failed; one sentence. Exit code 1."""


class UnhealthyRun(Exception):
    """Pretraining that has collapsed or is no longer finite; its text says what was seen. Exit code 3."""


class Stopped(Exception):
    """A run that was asked to stop (SIGTERM) and saved itself; it can be resumed. Exit code 143."""
