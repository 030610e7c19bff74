"""YAML files written by users -> plain trees, with limits on their size and without the pitfalls of YAML 1.1."""

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from chartray.errors import InputError

_LARGEST = 1_000_000  # bytes
_DEEPEST = 30
# Names and values, with every alias expanded.
_MOST = 50_000
_TEXT = "tag:yaml.org,2002:str"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_C_OR_PYTHON: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_C_OR_PYTHON):  # type: ignore[misc]  # the C one where libyaml is there
    """Reads plain scalars by YAML 1.2's core schema; what only YAML 1.1 converts stays text.

    So `yes`, `on`, `N`, `0012`, `12:30` and `2020-01-31` are text, and 1e-3 is a number.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own interface)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Names stay text; raises YAMLError for a repeated name, of which PyYAML would take the last."""
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a list or a mapping as a name", problem_mark=key.start_mark)
            if key.tag == "tag:yaml.org,2002:bool":
                key.value = key.value.lower()
            key.tag = _TEXT
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem="a repeated name", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _name, _form, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        # 24e71 may be a hexadecimal id: an exponent needs a sign or a decimal point.
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?(?:0|[1-9][0-9]*)[eE][-+][0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_form})$"), list(_first))


def _float(loader: Any, node: Any) -> float:
    text = node.value.lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def read_yaml(file: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file; errors call the file `what`, such as "a mapping file".

    Raises InputError for anything else: not a regular file, more than 1 MB, not UTF-8, control characters, repeated
    names, tags, too many levels or too much content (aliases expanded).
    """
    text = _text(file, what)
    try:
        tree = yaml_tree(text)
    except yaml.YAMLError as error:
        raise InputError(f"expected YAML in {file}, found {_problem(error)}; correct the file") from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else "a list" if isinstance(tree, list) else "a single value"
        raise InputError(f"expected {what} with names and values in {file}, found {found}; see examples/")
    return tree


def yaml_tree(text: str) -> Any:
    """The content of a YAML text as lists, dicts and plain values; raises yaml.YAMLError."""
    _check_bounds(text)
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except ValueError:
        raise yaml.YAMLError("a number with thousands of digits") from None
    finally:
        loader.dispose()


def _text(file: Path, what: str) -> str:
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            found = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise InputError(f"expected {what} at {file}, found {found}; check the path")
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        raise InputError(f"expected {what} at {file}, found none; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        found = error.strerror if isinstance(error, OSError) and error.strerror else "a path that cannot be opened"
        raise InputError(f"expected {what} at {file}, found {found}; check the path") from None
    if len(content) > _LARGEST:
        raise InputError(f"expected {what} of at most 1 MB at {file}, found more; check the path")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"expected {what} in UTF-8 at {file}, found other bytes; save it as UTF-8") from None
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise InputError(f"expected {what} at {file}, found a control character in line {line}; remove it")
    return text


def _check_bounds(text: str) -> None:
    """Raises YAMLError for too much depth or content and for tags, before any object is built.

    `open_` holds the anchor, the size and the depth below of each open collection, as far as they are known.
    """
    open_: list[list[Any]] = [[None, 0, 0]]
    known: dict[str, tuple[int, int]] = {}
    for event in yaml.parse(text, Loader=_C_OR_PYTHON):
        size, below = 1, 0
        if isinstance(event, yaml.AliasEvent):
            size, below = known.get(str(event.anchor), (0, -1))
            if below < 0:
                _stop("an alias without a complete anchor before it", event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            _refuse_tag(event)
            open_.append([event.anchor, 1, 0])
            below = -1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, size, below = open_.pop()
            below += 1
            if anchor is not None:
                known[anchor] = size, below
        elif isinstance(event, yaml.ScalarEvent):
            _refuse_tag(event)
            if _CONTROL.search(event.value):  # such as "\0", which is one only after parsing
                _stop("a control character", event)
            if event.anchor is not None:
                known[event.anchor] = size, below
        else:
            continue
        if below < 0:
            below, size = 0, 0
        open_[-1][1] += size
        open_[-1][2] = max(open_[-1][2], below)
        if len(open_) + below > _DEEPEST:
            _stop(f"more than {_DEEPEST} nested levels", event)
        if sum(entry[1] for entry in open_) > _MOST:
            _stop(f"more than {_MOST} names and values", event)


def _refuse_tag(event: Any) -> None:
    if event.tag is not None and not (event.tag == _TEXT and isinstance(event, yaml.ScalarEvent)):
        _stop("a tag (!), which is not supported", event)


def _stop(problem: str, event: Any) -> None:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _problem(error: yaml.YAMLError) -> str:
    """The problem and its line, without the content, which may be a patient's."""
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or ("" if mark is not None else str(error).splitlines()[0])
    return f"{problem.removeprefix('found ').removeprefix('but found ') or 'another form'}{where}"
