"""Commands around a project: doctor and init."""

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


def init(folder: Path) -> None:
    """Writes a new project: a commented mapping and study, a SLURM script, and a README with the commands in order.

    Args:
        folder: A new or empty folder.
    """
    from chartray.project_files import write_project

    written = write_project(folder)
    tell(*written, f"next: {folder / 'README.md'}", out=folder, files=written)
