"""Writes the pages that the program knows best: `commands.md` from each command's help, `knobs.md` from the settings.

python docs/generate.py            writes them
python docs/generate.py --check    exit code 1 if a page on disk is not what it would write
"""

import io
import sys
from pathlib import Path

from cyclopts import App
from pydantic.fields import FieldInfo
from rich.console import Console

from chartray.cli import app
from chartray.config.pretrain import Config
from chartray.config.section import section_of

HERE = Path(__file__).parent
WIDTH = 100


def commands_page() -> str:
    """Every command's help, as the terminal shows it."""
    parts = ["# Commands\n", "Each command's `--help`. `chartray COMMAND --help` shows the same in the terminal.\n"]
    for name in _names(app):
        parts.append(f"## chartray {' '.join(name)}\n\n```text\n{_help(list(name))}\n```\n")
    return "\n".join(parts)


def knobs_page() -> str:
    """Every setting of pretraining: its name, default and meaning."""
    parts = [
        "# Settings of pretraining\n",
        "Each can be given as `--section.name value`, or in a YAML file with `--config`. The defaults are those of the "
        "`msn` recipe unless the recipe says otherwise.\n",
    ]
    top = {name: field for name, field in Config.model_fields.items() if section_of(field) is None}
    parts.append(_table("", top))
    for name, field in Config.model_fields.items():
        if (section := section_of(field)) is not None:
            parts.append(f"## {name}\n\n{section.__doc__}\n\n{_table(name + '.', section.model_fields)}")
    return "\n".join(parts)


def _table(prefix: str, fields: dict[str, FieldInfo]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        lines.append(f"| `--{prefix}{name}` | `{shown}` | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def _names(of: App, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name in of:
        if name.startswith("-"):
            continue
        found += _names(of[name], (*before, name)) or [(*before, name)]
    return found


def _help(tokens: list[str]) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    app.help_print(tokens, console=console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().strip().splitlines())


PAGES = {"commands.md": commands_page, "knobs.md": knobs_page}


def main() -> int:
    """Writes the pages, or with --check says which of them are out of date."""
    if "--check" in sys.argv:
        old = [name for name, page in PAGES.items() if (HERE / name).read_text(encoding="utf-8") != page()]
        for name in old:
            print(f"docs/{name} is out of date; run python docs/generate.py", file=sys.stderr)
        return int(bool(old))
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
