"""Rules for all of the source: a class name means one thing, and records are typed."""

import ast
from collections import defaultdict
from pathlib import Path

import chartray

SOURCE = Path(chartray.__file__).parent


def test_a_class_name_means_one_thing() -> None:
    found = defaultdict(list)
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name.strip("_")].append(str(file.relative_to(SOURCE)))
    assert len(found) > 100
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_untyped_dictionaries_stay_at_the_edges() -> None:
    found = [
        f"{file.relative_to(SOURCE)}:{number}"
        for file in SOURCE.rglob("*.py")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        for _ in range(line.count("dict[str, Any]"))
    ]
    assert len(found) <= 20, "\n".join(found)
