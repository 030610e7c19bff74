"""The two ways a command ends badly: unusable input (exit 2) and a run that must not go on (exit 3)."""


class InputError(Exception):
    """Input that cannot be used; its text is one sentence: expected, found, where, what to do. Exit code 2."""


class UnhealthyRun(Exception):
    """Pretraining that has collapsed or is no longer finite; its text says what was seen. Exit code 3."""
