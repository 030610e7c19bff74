"""Which keys of a mapping's entry mean something for its kind; the others are refused before their values are read."""

from typing import Any

_OF_VARIABLES = {"kind", "group", "unit", "known_at_film"}
_TIMED = {"column", "days_from_film", "window_days"}
_MEANINGS = {"true", "false", "present_means", "absent_means"}
_INTERVAL = {"starts", "ends", "absent_means"}
_LABEL = {"kind", "column", "uncertain"} | _MEANINGS
# For each section and kind; a label is of the kind label unless it says otherwise.
KEYS = {
    "ehr": {
        "interval": _OF_VARIABLES | _INTERVAL,
        "categorical": _OF_VARIABLES | _TIMED | {"levels"},
        "numeric": _OF_VARIABLES | _TIMED | {"range"},
        "boolean": _OF_VARIABLES | _TIMED | _MEANINGS,
    },
    "labels": {"label": _LABEL, "boolean": _LABEL, "interval": {"kind"} | _INTERVAL},
}
_NOUNS = {"ehr": "variable", "labels": "label"}
_EVERY = {section: set[str]().union(*kinds.values()) for section, kinds in KEYS.items()}


def keys_of(section: str, entry: Any) -> list[str]:
    """The keys that an entry of `ehr` or `labels` may have, in order; those of every kind where it says none."""
    return sorted(KEYS[section].get(_kind(entry), _EVERY[section]))


def refuse_other_keys(entry: Any, section: str) -> Any:
    """The entry as it is; raises ValueError for a key that means something for another kind alone.

    What is wrong in the value of such a key does not matter, so this comes before the values are read.
    """
    if isinstance(entry, dict):
        meant = keys_of(section, entry)
        for name in sorted(entry.keys() & _EVERY[section] - set(meant)):
            kind = _kind(entry)
            what = {"interval": "an interval", "label": "a label"}.get(kind, f"a {kind} {_NOUNS[section]}")
            raise ValueError(f"{name!r} means nothing for {what}, which has {', '.join(meant)}")
    return entry


def _kind(entry: Any) -> str:
    return str(entry.get("kind", "label")) if isinstance(entry, dict) else ""
