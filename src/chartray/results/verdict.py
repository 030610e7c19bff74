"""The one rule that turns a comparison of two arms into words that claim: compare, audit, report, card and terminal.

One seed of a self-supervised pretraining moves by as much as the chart is expected to. So a difference is claimed of
arms only where each has at least `SEEDS_FOR_A_CLAIM` seeds; with fewer, its interval speaks of these
encoders alone.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

from chartray.wording import joined

SEEDS_FOR_A_CLAIM = 3
# What follows every difference over fewer seeds.
UNSURE = "another seed may differ; no claim about the method"
FEW_SEEDS = f"no claim: fewer than {SEEDS_FOR_A_CLAIM} seeds"


class Verdict(StrEnum):
    """What may be said of a minus b."""

    A_HIGHER = "a higher"
    B_HIGHER = "b higher"
    NO_DIFFERENCE = "no difference shown"
    NO_CLAIM = "no claim"

    @property
    def reversed(self) -> "Verdict":
        """The same of b minus a."""
        return {Verdict.A_HIGHER: Verdict.B_HIGHER, Verdict.B_HIGHER: Verdict.A_HIGHER}.get(self, self)

    def named(self, a: str, b: str) -> str:
        """In words, with the arms by name.

        >>> Verdict.A_HIGHER.named("sex,age", "no chart"), Verdict.NO_CLAIM.named("sex,age", "no chart")
        ('sex,age is higher', 'no claim')
        """
        return {Verdict.A_HIGHER: f"{a} is higher", Verdict.B_HIGHER: f"{b} is higher"}.get(self, str(self))


def verdict(difference: float | None, p: float | None, seeds: int, level: float = 0.95) -> Verdict | None:
    """The verdict on a `difference` with a (corrected) `p`, over `seeds` of each arm; None where a claim lacks a p.

    >>> verdict(0.02, 0.001, seeds=1), verdict(0.02, 0.001, seeds=3), verdict(-0.02, 0.2, seeds=3)
    (<Verdict.NO_CLAIM: 'no claim'>, <Verdict.A_HIGHER: 'a higher'>, <Verdict.NO_DIFFERENCE: 'no difference shown'>)
    """
    if why_no_claim(seeds):
        return Verdict.NO_CLAIM
    if difference is None or p is None or math.isnan(p):
        return None
    if p > 1 - level:
        return Verdict.NO_DIFFERENCE
    return Verdict.A_HIGHER if difference > 0 else Verdict.B_HIGHER


def rule(level: float = 0.95) -> str:
    """The rule of `verdict` as a formula, for a paper.

    >>> print(rule())
    Verdict on d = a - b over K_a and K_b seeds: if min(K_a, K_b) < 3, no claim about the method; else if p > 0.05, no \
difference shown; else a higher (d > 0) or b higher (d < 0), where p is Holm's for a label
    """
    alpha = f"{1 - level:.2g}"
    return (
        f"Verdict on d = a - b over K_a and K_b seeds: if min(K_a, K_b) < {SEEDS_FOR_A_CLAIM}, no claim about the "
        f"method; else if p > {alpha}, no difference shown; else a higher (d > 0) or b higher (d < 0), where p "
        "is Holm's for a label"
    )


def verdict_of_interval(low: float, high: float, seeds: int) -> Verdict:
    """The verdict where there is an interval and no p: a difference is shown where it leaves out 0."""
    if why_no_claim(seeds):
        return Verdict.NO_CLAIM
    return Verdict.A_HIGHER if low > 0 else Verdict.B_HIGHER if high < 0 else Verdict.NO_DIFFERENCE


def why_no_claim(seeds: int) -> str | None:
    """Why nothing may be claimed of arms with this number of `seeds`; None where it may.

    >>> why_no_claim(2), why_no_claim(3)
    ('no claim: fewer than 3 seeds', None)
    """
    return FEW_SEEDS if seeds < SEEDS_FOR_A_CLAIM else None


def seen_in_few(a: str, b: str, low: float, high: float, seeds: int, run_seed: int | None = None) -> str:
    """What fewer than `SEEDS_FOR_A_CLAIM` seeds of each arm allow to be said, from the interval of a minus b.

    `run_seed` is that of the one encoder, where there is one.

    >>> seen_in_few("sex,age", "no chart", 0.01, 0.03, 1, 0)
    'Seen in one encoder (seed 0): sex,age is higher; another seed may differ; no claim about the method'
    >>> seen_in_few("sex,age", "no chart", -0.01, 0.03, 2)
    'Seen in two encoders: no difference; another seed may differ; no claim about the method'
    """
    said = f"{a} is higher" if low > 0 else f"{b} is higher" if high < 0 else "no difference"
    return seen(said, seeds, () if run_seed is None else (run_seed,))


def encoders(seeds: int, names: Sequence[int] = ()) -> str:
    """Of how many encoders a difference over `seeds` speaks; `names` are the seeds, where they are known.

    >>> encoders(1, [0]), encoders(2)
    ('one encoder (seed 0)', 'two encoders')
    """
    named = f" (seed{'s' * (len(names) > 1)} {joined(map(str, sorted(names)))})" if len(names) == seeds else ""
    return ("one encoder" if seeds == 1 else "two encoders") + named


def seen(what: str, seeds: int, names: Sequence[int] = ()) -> str:
    """What is said of a difference over fewer seeds than a claim needs, without its full stop.

    >>> seen("sex is higher than no chart", 1, [0])
    'Seen in one encoder (seed 0): sex is higher than no chart; another seed may differ; no claim about the method'
    """
    return f"Seen in {encoders(seeds, names)}: {what}; {UNSURE}"


def after_correction(said: str, low: float | None, high: float | None, over: int, noun: str) -> str:
    """A verdict in words, with the reason where it shows no difference although the interval leaves out 0.

    >>> [after_correction("no difference shown", low, 0.05, 12, "label") for low in (0.01, -0.01)]
    ['no difference shown after correction over 12 labels', 'no difference shown']
    """
    if said != Verdict.NO_DIFFERENCE or low is None or high is None or low <= 0 <= high:
        return said
    return f"{said} after correction{f' over {over} {noun}s' if over else ''}"
