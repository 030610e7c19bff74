"""The ways in which a command ends early.

Unusable input (2), a failed write or a lost process (1), an unhealthy run (3), a command that a signal asked to stop
(128 + its number).
"""

import signal


class InputError(Exception):
    """Input that cannot be used; its text is one sentence: expected, found, where, what to do. Exit code 2."""


class LostProcess(Exception):
    """Another process of the same run has ended or is not heard of; its text is one sentence. Exit code 1."""


class OutputError(Exception):
    """A failed write: no space, a quota, a limit, a failing disk; its text is one sentence. Exit code 1."""


class UnhealthyRun(Exception):
    """Pretraining that has collapsed or is no longer finite; its text gives the evidence. Exit code 3."""


class Stopped(Exception):
    """A command that the signal `number` asked to stop; it has saved what it did and can be continued.

    Exit code 128 + `number`, as a shell has it: SIGTERM 143, SIGUSR1 138, SIGINT 130.
    """

    def __init__(self, sentence: str, number: int = signal.SIGTERM) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + number
