"""Commands around a project: doctor."""

from pathlib import Path

from chartray.console import tell
from chartray.errors import InputError
from chartray.wording import plural


def doctor(folder: Path = Path()) -> None:
    """Tries what this machine has for Chartray; exit code 2 if something that is required is missing.

    Args:
        folder: Folder that results are to be written to, whose disk and locks are tried.
    """
    from chartray.doctor import examine, spoken

    examined = []
    for each in examine(folder):
        tell(spoken(each))
        examined.append(each)
    tell(examined=examined)
    missing = sum(each.verdict == "missing" for each in examined)
    if missing:
        raise InputError(f"found {plural(missing, 'thing')} missing that Chartray needs; see the lines above")
