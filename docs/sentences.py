"""Lists every sentence of src/chartray that a person reads, one a line: file:line, kind, sentence.

python docs/sentences.py                 errors, printed lines, titles of progress, options, help, templates, other text
python docs/sentences.py --docstrings    also the docstrings that only a developer reads
"""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parent.parent / "src" / "chartray"
ERRORS = ("InputError", "OutputError", "UnhealthyRun", "Stopped", "ValueError")
CALLS = {"print": "printed", "progress": "progress", "Field": "option"} | dict.fromkeys(ERRORS, "error")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Sentence(NamedTuple):
    """A sentence, where it is written, and which kind of text it is."""

    place: str
    kind: str
    text: str


def sentences(source: Path = SOURCE, docstrings: bool = False) -> Iterator[Sentence]:
    """The sentences of every module and template under `source`, in the order of the files."""
    for file in sorted(source.rglob("*")):
        name = str(file.relative_to(source))
        if file.suffix not in (".py", ".j2"):
            continue
        text = file.read_text(encoding="utf-8")
        found = of_module(text, name.startswith("commands/")) if file.suffix == ".py" else of_template(text)
        for line, kind, said in found:
            if docstrings or kind != "docstring":
                yield Sentence(f"{name}:{line}", kind, " ".join(said.split()))


def of_module(code: str, commands: bool = False) -> Iterator[tuple[int, str, str]]:
    """The strings of a module: (line, kind, text); `commands` says that its docstrings are a command's help.

    >>> list(of_module('raise InputError(f"expected {n} images, " "found none")'))
    [(1, 'error', 'expected {n} images, found none')]
    """
    tree = ast.parse(code)
    documented = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    for node in documented:
        if node_string := _docstring(node):
            is_help = commands and isinstance(node, ast.FunctionDef) and node.name[0] != "_"
            yield node_string.lineno, "help" if is_help else "docstring", str(node_string.value)
    constants = {id(node) for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)}
    yield from _texts(tree, "text", {id(_docstring(node)) for node in documented}, constants)


def _texts(node: ast.AST, kind: str, skipped: set[int], constants: set[int]) -> Iterator[tuple[int, str, str]]:
    """The texts below `node`; `kind` is that of the innermost call around them."""
    if id(node) in skipped:
        return
    kind = "constant" if id(node) in constants else kind
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        kind = CALLS.get(name, kind)
    if isinstance(node, ast.JoinedStr | ast.Constant):
        text = _joined(node)
        if text and (kind in CALLS.values() or _is_sentence(text)) and re.search(r"[A-Za-z]{2}", text):
            yield node.lineno, kind, text
            return
    for child in ast.iter_child_nodes(node):
        yield from _texts(child, kind, skipped, constants)


def _joined(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _joined(part) if isinstance(part, ast.Constant) else "{" + ast.unparse(getattr(part, "value", part)) + "}"
            for part in node.values
        )
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_sentence(text: str) -> bool:
    """Three words or more outside of placeholders; patterns and code are none."""
    return (
        not re.search(r"\(\?|import |^<", text)
        and len(re.findall(r"(?<![\w-])[A-Za-z]{2,}(?![\w(=])", re.sub(r"\{[^}]*\}", "", text))) >= 3
    )


def _docstring(node: ast.AST) -> ast.Constant | None:
    first = getattr(node, "body", None)
    if (
        isinstance(first, list)
        and first
        and isinstance(first[0], ast.Expr)
        and isinstance(first[0].value, ast.Constant)
    ):
        return first[0].value if isinstance(first[0].value.value, str) else None
    return None


def of_template(text: str) -> Iterator[tuple[int, str, str]]:
    """The text of a template without its tags, a line each; expressions stay as placeholders.

    >>> list(of_template("<p>One {{ word }}.</p>"))
    [(1, 'template', 'One {{ word }}.')]
    """
    for tag in (r"\{%.*?%\}|\{#.*?#\}", r"<(?:\{\{.*?\}\}|[^<>])*>"):
        text = re.sub(tag, lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"[A-Za-z]{2}", re.sub(r"\{\{.*?\}\}", "", line)):
            yield number, "template", line.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docstrings", action="store_true", help="also the docstrings that only a developer reads")
    for sentence in sentences(docstrings=parser.parse_args().docstrings):
        print("  ".join(sentence))
