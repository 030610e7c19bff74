"""Which keys of a mapping apply to each kind of entry, and the error sentences for an invalid mapping."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from chartray.wording import nearest

_OF_VARIABLES = {"kind", "group", "unit", "known_at_film"}
_TIMED = {"column", "days_from_film", "window_days", "codes"}
_MEANINGS = {"true", "false", "separator", "others_mean", "present_means", "absent_means"}
_INTERVAL = {"starts", "ends", "absent_means"}
_LABEL = {"kind", "column", "uncertain", "unknown", "blank"} | _MEANINGS
# By section and kind; the default kind of a label is `label`.
KEYS = {
    "ehr": {
        "interval": _OF_VARIABLES | _INTERVAL,
        "categorical": _OF_VARIABLES | _TIMED | {"levels"},
        "numeric": _OF_VARIABLES | _TIMED | {"range", "units", "years_since"},
        "boolean": _OF_VARIABLES | _TIMED | _MEANINGS | {"during"},
    },
    "labels": {"label": _LABEL, "boolean": _LABEL, "interval": {"kind"} | _INTERVAL},
}
# Below this similarity it is another word, not a typing error (`values` is not `false`).
_TYPING_ERROR = 0.6
_LONGEST = 300
_NOUNS = {"ehr": "variable", "labels": "label"}
_EVERY = {section: set[str]().union(*kinds.values()) for section, kinds in KEYS.items()}


def keys_of(section: str, entry: Any) -> list[str]:
    """The sorted keys that an entry of `ehr` or `labels` may have; those of all kinds if it has no kind."""
    return sorted(KEYS[section].get(_kind(entry), _EVERY[section]))


def refuse_other_keys(entry: Any, section: str) -> Any:
    """Returns the entry; raises ValueError for a key that applies only to another kind.

    It runs before the values are read, so that errors are not about the value of such a key.
    """
    if isinstance(entry, dict):
        meant = keys_of(section, entry)
        for name in sorted(entry.keys() & _EVERY[section] - set(meant)):
            kind = _kind(entry)
            what = {"interval": "an interval", "label": "a label"}.get(kind, f"a {kind} {_NOUNS[section]}")
            raise ValueError(f"{name!r} does not apply to {what}, which has {', '.join(meant)}")
    return entry


def _kind(entry: Any) -> str:
    return str(entry.get("kind", "label")) if isinstance(entry, dict) else ""


def sentence(
    error: ValidationError, tree: Mapping[str, Any], keys: Sequence[str], sections: dict[str, Sequence[str]]
) -> str:
    """The first problem of the mapping `tree`, whose valid `keys` are given, and those of its `sections`."""
    # In a section, a key in another spelling is named before the one that it stands for is missed.
    problems = error.errors()
    other = (each for each in problems if each["type"] == "extra_forbidden" and len(each["loc"]) > 1)
    first = next(other, problems[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section, *inner = (str(part) for part in first["loc"])
        known = keys
        if inner:
            known = sections.get(section) or keys_of(section, tree[section].get(inner[0], {}))
        close = nearest(str(first["loc"][-1]), known, likeness=_TYPING_ERROR)
        return f"expected known keys, found {_short(repr(where))}{close or '; there are ' + ', '.join(known)}"
    if first["type"] == "missing":
        return f"expected {where!r}, found none; it is required"
    message = _short(str(first["msg"]).removeprefix("Value error, "))
    if not where:
        return message
    if first["type"] == "value_error":
        return f"expected a valid {where!r}: {message}"
    message = message.removeprefix("Input should be ").partition(" or instance of")[0]
    return f"expected {where!r} to be {message}, found {_short(repr(first['input']))}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
