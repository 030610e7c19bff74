"""The files of a new project, which `chartray init` copies."""

from importlib.resources import files
from pathlib import Path

from chartray.outputs.disk import writing
from chartray.outputs.guard import refuse_other

# Packages leave out names that begin with a dot.
_HIDDEN = {"gitignore": ".gitignore"}


def write_project(folder: Path) -> list[Path]:
    """Writes a new project into `folder`; returns its files.

    Raises InputError unless the folder is new or empty.
    """
    refuse_other(folder)
    written = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(files("chartray").joinpath("project").iterdir(), key=lambda file: file.name):
            written.append(folder / _HIDDEN.get(file.name, file.name))
            written[-1].write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    return written
