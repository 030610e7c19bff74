"""Writes the pages that the program knows best: `commands.md` from each command's help, `knobs.md` from the settings,
`results.md` from the records of the results contract.

python docs/generate.py            writes them
python docs/generate.py --check    exit code 1 if a page on disk is not what it would write
"""

import importlib
import inspect
import io
import re
import sys
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import App
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console

from chartray.cli import app
from chartray.config.pretrain import Config
from chartray.config.section import section_of
from chartray.results.arm import Arm
from chartray.results.manifest import Manifest
from chartray.results.schema import ARM_COLUMNS, Record

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


def results_page() -> str:
    """Every file of results: the prose of results.template.md with a table of fields for each record it names."""
    importlib.import_module("chartray.results.audit_rows")  # which makes the rows of an audit known
    records = {record.__name__: record for record in (*_subclasses(Record), *_subclasses(Manifest))}
    named: list[str] = []

    def table(match: re.Match[str]) -> str:
        if match[1] == "parts":
            return _parts([records[name] for name in named])
        named.append(match[1])
        return _fields(records[match[1]])

    return re.sub(r"\{\{ (\w+) \}\}", table, (HERE / "results.template.md").read_text(encoding="utf-8"))


def _subclasses(of: type[BaseModel]) -> list[type[BaseModel]]:
    return [each for kind in of.__subclasses__() for each in (kind, *_subclasses(kind))]


def _fields(record: type[BaseModel]) -> str:
    """What a record is, and its fields as they are on disk: an arm is spread over columns of its own."""
    lines = [inspect.cleandoc(record.__doc__ or ""), "", "| field | type | meaning |", "|---|---|---|"]
    arms, of_arm = getattr(record, "arm_fields", {}), Arm.__pydantic_fields__
    # What a record adds stands above what it inherits.
    depth = {name: level for level, kind in enumerate(record.__mro__) for name in getattr(kind, "__annotations__", ())}
    for name, field in sorted(record.model_fields.items(), key=lambda each: depth[each[0]]):
        if name in arms:
            for part, column in ARM_COLUMNS.items():
                meaning = f"{field.description}: {of_arm[part].description}" if arms[name] else of_arm[part].description
                lines.append(f"| `{column}{arms[name]}` | {_type(of_arm[part].annotation)} | {meaning} |")
            continue
        lines.append(f"| `{field.alias or name}` | {_type(field.annotation)} | {field.description or ''} |")
    return "\n".join(lines)


def _parts(manifests: list[type[BaseModel]]) -> str:
    """The records inside the named ones that have no table yet, each under a heading."""
    waiting = list(manifests)
    parts: list[type[BaseModel]] = []
    while waiting:
        for field in waiting.pop(0).model_fields.values():
            for part in _records_in(field.annotation):
                if part not in (*parts, *manifests):
                    parts.append(part)
                    waiting.append(part)
    return "\n\n".join(f"### {part.__name__}\n\n{_fields(part)}" for part in parts)


def _records_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for part in get_args(annotation) for record in _records_in(part)]


_WORDS: dict[object, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}


def _type(annotation: object) -> str:
    """A type as a reader of JSON calls it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in parts)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if origin in (tuple, list):
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return f"object ({_type(parts[0])} to {_type(parts[1])})"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _WORDS.get(annotation, str(annotation))


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


PAGES = {"commands.md": commands_page, "knobs.md": knobs_page, "results.md": results_page}


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
