"""The roles of chart variables in pretraining, and how they are written: `sex=anchor,age=predict` (docs/method.md)."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from chartray.config.section import separated
from chartray.wording import nearest

Role = Literal["anchor", "predict", "contrast", "mmcl", "suppress", "suppress-contrast", "decorrelate", "none"]
ROLES: tuple[Role, ...] = get_args(Role)
# Roles of which the anchor's class token is to know nothing, and those of which it is to know more.
SUPPRESSING: tuple[Role, ...] = ("suppress", "suppress-contrast", "decorrelate")
REVERSING: tuple[Role, ...] = ("suppress", "suppress-contrast")  # by a head whose gradient is reversed
INFORMING: tuple[Role, ...] = ("predict", "contrast", "mmcl")
CONTRASTING: tuple[Role, ...] = ("contrast", "suppress-contrast")
# What pretraining did with a variable, to follow its name in a sentence.
ROLE_WORDS: dict[Role, str] = {
    "anchor": "entered the anchor branch only",
    "predict": "was predicted from the anchor embedding",
    "contrast": "was contrasted in the anchor embedding (ProtoNCE against a centroid of each level)",
    "mmcl": "was matched with the anchor embedding (InfoNCE of image and chart with marginal corruption)",
    "suppress": "was suppressed in the anchor embedding (a prediction behind gradient reversal)",
    "suppress-contrast": "was suppressed in the anchor embedding (a contrast behind gradient reversal)",
    "decorrelate": "was suppressed in the anchor embedding (the share of it that is read linearly was minimized)",
}


def read_roles(given: Any) -> dict[str, str]:
    """Roles by name, sorted, as text, mapping or list give them; several roles of a name are joined by `+`.

    Raises ValueError for an unknown role (the nearest is suggested) and for roles of one name that contradict.

    >>> read_roles("view=suppress,sex=anchor+predict"), read_roles({"sex": ["anchor", "predict"]})
    ({'sex': 'anchor+predict', 'view': 'suppress'}, {'sex': 'anchor+predict'})
    """
    found: dict[str, list[Role]] = {}
    for name, words in _pairs(given):
        for word in words:
            if word not in ROLES:
                raise ValueError(
                    f"expected a role of {name!r} in chart.roles ({', '.join(ROLES)}), found {word!r}"
                    f"{nearest(word, ROLES)}; several roles of one variable are joined by +"
                )
            found.setdefault(name, []).append(word)
    for name, roles in found.items():
        refuse_contradiction(name, roles)
    return {name: "+".join(role for role in ROLES if role in found[name]) for name in sorted(found)}


def refuse_contradiction(name: str, roles: list[Role]) -> None:
    """Raises ValueError for a variable that is to be known and suppressed, or to have a role and none."""
    one = next((role for role in roles if role in SUPPRESSING), None)
    other = next((role for role in roles if role in INFORMING), None)
    if "none" in roles and len(set(roles)) > 1:
        one, other = "none", next(role for role in roles if role != "none")
    if one and other:
        raise ValueError(
            f"expected roles of {name!r} that do not contradict each other in chart.roles, found {one} and {other}; "
            "leave one out"
        )


def split_roles(joined: str) -> tuple[Role, ...]:
    """The roles in a value of `read_roles`.

    >>> split_roles("anchor+suppress")
    ('anchor', 'suppress')
    """
    return tuple(role for role in ROLES if role in joined.split("+"))


def one_text(roles: Mapping[str, tuple[Role, ...]]) -> str:
    """How a manifest says it: the role that all names share, else each name with its roles.

    >>> one_text({"sex": ("predict",), "age": ("predict",)}), one_text({"sex": ("anchor",), "view": ("suppress",)})
    ('predict', 'sex=anchor,view=suppress')
    """
    shared = set(roles.values())
    if len(shared) == 1 and len(only := next(iter(shared))) == 1:
        return only[0]
    return ",".join(f"{name}={'+'.join(each)}" for name, each in roles.items())


def roles_in(chart: str, use: str) -> dict[Role, list[str]]:
    """The names of each role, from what a manifest says of a run: its chart and how it was used (`one_text`).

    Nothing where it says what Chartray does not write.

    >>> roles_in("sex,age", "predict"), roles_in("sex,view", "sex=anchor+predict,view=suppress")
    ({'predict': ['sex,age']}, {'anchor': ['sex'], 'predict': ['sex'], 'suppress': ['view']})
    """
    try:
        each = read_roles(use) if "=" in use else {chart: use}
    except ValueError:
        return {}
    found = {role: [name for name, roles in each.items() if role in split_roles(roles)] for role in ROLES}
    return {role: names for role, names in found.items() if names}


def _pairs(given: Any) -> list[tuple[str, list[str]]]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [(str(name).strip(), _words(name, roles)) for name, roles in given.items()]
    pairs = []
    for part in separated(given if isinstance(given, str | list | tuple) else str(given)):
        name, equals, roles = str(part).partition("=")
        if not name.strip() or not equals or not roles.strip():
            raise ValueError(
                f"expected NAME=ROLE in chart.roles, found {str(part)[:60]!r}; for instance sex=anchor,view=suppress"
            )
        pairs.append((name.strip(), _words(name, roles)))
    return pairs


def _words(name: object, roles: object) -> list[str]:
    words = roles.split("+") if isinstance(roles, str) else roles
    # YAML reads an empty value, and the word null, as none at all.
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected a role of {str(name)[:60]!r} in chart.roles, found {str(roles)[:60]!r}")
    return [word.strip() for word in words]
