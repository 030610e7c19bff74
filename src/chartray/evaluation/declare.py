"""The question of a study file becomes a declaration, fixed before anything of the study is scored on test."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from chartray.config.evaluate import FROZEN
from chartray.config.study import Experiment, QuestionSection
from chartray.errors import InputError
from chartray.evaluation.image_set import chosen_labels, metadata_of
from chartray.outputs.json_file import parsed_record, read_json, write_json
from chartray.pixels.store import Store
from chartray.results.arm import BASELINES, UNTRAINED
from chartray.results.folder import now
from chartray.results.ledger import read_ledger
from chartray.results.question import DeclaredQuestion, Question, known_arms, question_hash
from chartray.results.schema import MACRO
from chartray.wording import listed, nearest

QUESTION_FILE = "question.json"
METRICS = ("auroc", "average_precision")
_WHAT = "the declared questions of a study"


def question_of(experiment: Experiment) -> Question | None:
    """The question of a study, its words resolved against its arms, evaluations and stores.

    Raises InputError, which names the nearest word, for an arm, a data set, a metric or a label that the study lacks.
    """
    asked = experiment.question
    if asked is None:
        return None
    if len(experiment.arms) < 2:
        raise InputError("expected at least two arms to compare, found one; add another, or leave out the question")
    evaluation, dataset = _place(experiment, asked.dataset)
    spec = experiment.evaluations[evaluation]
    metric, _, label = asked.metric.partition(" ")
    _known("metric", metric, METRICS)
    labels = chosen_labels(Store.open(spec.store), spec.options.labels)
    _known("label", label or MACRO, [MACRO, *labels])
    arms = known_arms([arm.name for arm in experiment.arms])
    family = _family(asked, [arm.name for arm in experiment.arms])
    for pair in family:
        for name in pair:
            _known("arm", name, arms)
            scored = spec.options.baselines and (spec.options.protocol in FROZEN or name == UNTRAINED)
            if name in BASELINES and not scored:
                raise InputError(
                    f"expected an evaluation that scores {name}, which a pair names; {evaluation} does not"
                )
        if len(set(pair)) < 2 or set(pair) <= set(BASELINES):
            raise InputError(
                f"expected pairs of two arms, one of the study at least, found {' and '.join(pair)}; name two"
            )
    return Question(
        primary=family[0],
        evaluation=evaluation,
        dataset=dataset,
        metric=metric,
        label=label or MACRO,
        fraction=max(spec.options.data_percent),
        margin=asked.margin,
        family=family,
    )


def declare(experiment: Experiment, out: Path) -> list[DeclaredQuestion]:
    """Writes OUT/question.json: all declared questions, today's last; returns them.

    A question that is declared already keeps its time. Another one, or the same of other arms, seeds or settings, is
    added with the number of scorings of test that went before. Raises InputError as `question_of`, and where a question
    was declared and the study file has none any more.
    """
    question = question_of(experiment)
    before = read_questions(out / QUESTION_FILE) if (out / QUESTION_FILE).exists() else []
    if question is None:
        if before:
            raise InputError(
                f"expected the question that was declared on {before[-1].when} in the study file, found none; put it "
                "back, or declare another"
            )
        return []
    arms = {arm.name: tuple(f"{arm.name}-{seed}" for seed in experiment.seeds) for arm in experiment.arms}
    settings = _settings(experiment, question.evaluation)
    digest = question_hash(question, arms, settings)
    if before and before[-1].sha256 == digest:
        return before
    own, runs, all_scorings = _scored_before(experiment, out)
    declared = DeclaredQuestion(
        question=question,
        arms=arms,
        settings=settings,
        sha256=digest,
        when=now(),
        test_scored=own,
        test_scored_by=runs,
        test_scored_by_others=all_scorings - own,
    )
    questions = [*before, declared]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / QUESTION_FILE, {"questions": [each.model_dump(mode="json") for each in questions]})
    return questions


def read_questions(file: Path) -> list[DeclaredQuestion]:
    """All questions that a study has declared, the first one first; raises InputError for anything else."""
    content = read_json(file, _WHAT)
    found = content.get("questions")
    if not isinstance(found, list) or not found:
        raise InputError(f"expected {_WHAT} in {file}, found none; give the file that chartray study wrote")
    questions = [parsed_record(DeclaredQuestion, each, str(file), _WHAT, "run chartray study again") for each in found]
    for each in questions:
        if each.sha256 != question_hash(each.question, each.arms, each.settings):
            raise InputError(f"expected {_WHAT} as they were declared in {file}, found another question than hashed")
    return questions


def _place(experiment: Experiment, asked: str) -> tuple[str, str]:
    """The evaluation and the data set that are meant: a home first, and the first evaluation that scores it."""
    places: dict[tuple[str, str], str] = {}
    for name, spec in experiment.evaluations.items():
        home = metadata_of(Store.open(spec.store)).source
        taken = {home}
        places.setdefault((home, home), name)
        for store in map(Store.open, spec.options.external):
            source = metadata_of(store).source
            dataset = source if source not in taken else f"{source}:{store.folder.name}"
            taken.add(dataset)
            places.setdefault((dataset, home), name)
    if asked == "home":
        first = next(iter(experiment.evaluations))
        return first, next(home for (_, home), name in places.items() if name == first)
    dataset, _, home = asked.partition("<")
    fitting = [place for place in places if place[0] == dataset and home in ("", place[1])]
    if not fitting:
        words = list(dict.fromkeys(("home", *(each for each, _ in places), *(f"{a}<{b}" for a, b in places if a != b))))
        raise _unknown("dataset", asked, words)
    chosen = min(fitting, key=lambda place: place[0] != place[1])
    return places[chosen], dataset


def _family(asked: QuestionSection, arms: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The pairs that are corrected together, the primary one first, each once."""
    a, b = asked.primary
    if asked.family == "all":
        pairs = list(itertools.combinations(arms, 2))
    elif isinstance(asked.family, str):
        control = asked.family.removeprefix("against ")
        _known("arm", control, known_arms(arms))
        pairs = [(name, control) for name in arms if name != control]
    else:
        pairs = [(one, other) for one, other in asked.family]
    found = {frozenset((a, b)): (a, b)}
    for pair in pairs:
        found.setdefault(frozenset(pair), pair)
    return tuple(found.values())


def _settings(experiment: Experiment, evaluation: str) -> dict[str, str]:
    """SHA-256 of what each arm and the evaluation mean: without seed, paths, and what changes no result."""

    def digest(content: Mapping[str, object]) -> str:
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    found = {arm.name: digest(arm.config(0).model_dump(mode="json")) for arm in experiment.arms}
    spec = experiment.evaluations[evaluation]
    stores = [Store.open(each).hash for each in (experiment.store, spec.store, *spec.options.external)]
    options = spec.options.model_dump(mode="json", exclude={"external", "device", "saliency"})
    return found | {f"evaluation {evaluation}": digest(options | {"stores": stores})}


def _scored_before(experiment: Experiment, out: Path) -> tuple[int, int, int]:
    """How often runs of this study were scored on test before, how many runs, and how often any run was."""
    stores = [experiment.store, *(each.store for each in experiment.evaluations.values())]
    stores += [other for each in experiment.evaluations.values() for other in each.options.external]
    # One command that scores several stores is one scoring.
    entries = {each._replace(store="") for store in dict.fromkeys(stores) for each in read_ledger(store)[0]}
    own = {each for each in entries if (out / "runs").resolve() in Path(each.source).parents}
    return len(own), len({each.run for each in own}), len(entries)


def _known(what: str, word: str, words: Sequence[str]) -> None:
    if word not in words:
        raise _unknown(what, word, words)


def _unknown(what: str, word: str, words: Sequence[str]) -> InputError:
    return InputError(f"unknown {what} {word!r}{nearest(word, words)}; there are {listed(words)}")
