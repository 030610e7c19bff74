"""JSON files that carry their own SHA-256, under the key `sha256`, which is verified when they are read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chartray.errors import InputError
from chartray.outputs.replacing import replaced_file

DIGEST = "sha256"
Parsed = TypeVar("Parsed", bound=BaseModel)


def write_json(file: Path, content: Mapping[str, Any], *, shared: Path | None = None) -> None:
    """Writes one JSON object with its SHA-256, whole or not at all, flushed; `shared`: as `replaced_file`."""
    with replaced_file(file, shared=shared) as partial:
        write_sealed(content, partial)


def write_sealed(content: Mapping[str, Any], file: Path) -> None:
    """Writes one JSON object with its SHA-256 to `file` itself, for a caller that renames it afterwards."""
    plain = json.loads(json.dumps(dict(content)))  # keys become text, tuples lists: what a reader will find
    file.write_text(json.dumps(plain | {DIGEST: digest(plain)}, indent=1) + "\n", encoding="utf-8")


def read_json(file: Path, what: str) -> dict[str, Any]:
    """The object that `write_json` wrote, without its SHA-256.

    Raises InputError, which names the file and calls it `what`, if it is missing, no JSON object, or differs from what
    was written.
    """
    return verified(read_object(file, what), file, what)


def verified(content: dict[str, Any], file: Path, what: str) -> dict[str, Any]:
    """The object without its SHA-256; raises InputError as `read_json` where that is not the object's."""
    carried = content.pop(DIGEST, None)
    if carried is None:
        raise InputError(
            f"expected {what} with its SHA-256 in {file}, found none: it was edited, or written by an earlier version "
            "of Chartray; make it again"
        )
    if carried != digest(content):
        raise InputError(
            f"expected {what} in {file} as it was written, found other content (its SHA-256 differs): it was damaged "
            "or edited; make it again, or restore a complete copy of it"
        )
    return content


def read_object(file: Path, what: str) -> dict[str, Any]:
    """One JSON object of any origin; raises InputError, which names the file and calls it `what`, for anything else."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"expected {what} at {file}, found no such file") from None
    except OSError as error:
        raise InputError(f"expected {what} at {file}, found: {error.strerror}") from None
    except ValueError:
        raise InputError(f"expected {what} (JSON) in {file}, found bytes that are not UTF-8; make it again") from None
    return parsed(text, str(file), what)


def parsed(text: str, where: str, what: str = "what Chartray wrote") -> dict[str, Any]:
    """The JSON object that `text` is; raises InputError, which says `where` and `what`, for anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"expected {what} (JSON) in {where}, found other content; make it again") from None
    if not isinstance(content, dict):
        raise InputError(f"expected {what} (a JSON object) in {where}, found {type(content).__name__}; make it again")
    return content


def parsed_record(
    record: type[Parsed],
    content: Mapping[str, Any],
    where: str,
    what: str = "what Chartray writes",
    remedy: str = "make this folder again",
) -> Parsed:
    """`content` as a record; raises InputError for the first entry that does not fit: `what` was expected `where`."""
    try:
        return record.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        found = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r:.60}"
        message = str(first["msg"]).removeprefix("Value error, ").splitlines()[0]
        raise InputError(f"expected {what} in {where}; {place}: {message}{found}; {remedy}") from None


def digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object, whatever the order of its keys and its line breaks."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
