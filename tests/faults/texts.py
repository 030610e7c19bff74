"""Texts that people and strangers write: mapping and study files, and files of a shared folder, sealed anew.

Expected of YAML: read, or one sentence, within seconds, whatever tags and aliases are in it. Expected of a shared
folder whose digests are right: read, or one sentence; nothing in it is run, and nothing outside it is opened.
"""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.faults.damaged import files_of
from tests.faults.materials import COMMANDS, MAPPING, MARK, Hospital, copy
from tests.faults.outcome import READ, REFUSED, Outcome, failure, told_patients, unsaid
from tests.faults.processes import in_a_row, said_so_far

_ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        1.5,
        float("nan"),
        float("inf"),
        10**30,
        "",
        " ",
        "x",
        "sex",
        "file",
        "M",
        [],
        {},
    ),
    *(
        ["M", "M"],
        [None],
        [[]],
        {"a": 1},
        [1, 0],
        [0, 1],
        [float("nan"), 1],
        "../..",
        "/",
        "x" * 10_000,
        "a\x00b",
        "{image_id}",
    ),
    *(
        "{patient.__class__}",
        "{0}",
        "=1+1",
        "hf-hub:timm/vit_tiny_patch16_224",
        "2020-01-01",
        ["train", "test"],
        "none",
    ),
)
_SNIPPETS = (
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
    "x: &x [*x]\n",
    "x: !!python/object/apply:os.system ['touch CANARY']\n",
    "x: !!python/name:os.system\n",
    "x: !!binary aGVsbG8=\n",
    "x: !unknown y\n",
    "<<: *nothing\n",
    "? {a: 1}\n: b\n",
    "x: " + "[" * 3000 + "\n",
    "x: " + "{a: " * 1500 + "\n",
    "- a\n",
    "---\n---\n",
    "\t\n",
    "x: 0x" + "f" * 5000 + "\n",
    "x: " + "1" * 6000 + "\n",
    "x: 190:20:30.15\n",
    "%YAML 9.9\n---\n",
    "\ufeff",
    "x: 'never ended\n",
    "\x00",
    "ehr: {<<: &m {sex: 1}, age: *m}\n",
)
TEXTS, SHARED = ("mapping", "study", "knobs"), ("run", "bundle", "results", "store", "audited", "compared")
_CANARY = "CANARY"


def fuzz_yaml(hospital: Hospital, which: str, seeds: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """A mapping, a study file or a file of knobs, changed once or twice."""
    runs = hospital.does  # before any fork: everything that is needed is imported
    if which != "mapping":
        hospital.make("ingest")
    folder = _room(hospital, ("films.csv",) if which == "mapping" else ("store",))
    (folder / "films").symlink_to(hospital.whole / "films")
    whole = MAPPING if which == "mapping" else (hospital.whole / "study.yaml").read_text()
    if which == "knobs":
        whole = yaml.safe_dump(_nested(yaml.safe_load(whole)["pretrain"]))
    tokens = {
        "mapping": (
            "cohort",
            "table",
            "films.csv",
            "--mapping",
            "given.yaml",
            "--images",
            "films",
            "--out",
            "out.parquet",
        ),
        "study": ("study", "given.yaml", "--out", "out", "--plan"),
        # Refused last of all, so that nothing is trained: a chart that the store does not have.
        "knobs": ("pretrain", "store", "--config", "given.yaml", "--ehr", "no-such-variable", "--out", "out"),
    }[which]

    def does(seed: int) -> tuple[str, ...]:
        os.chdir(folder)
        draw = random.Random(f"{which}:{seed}")
        text = _changed(whole, draw).replace("CANARY", str(folder / _CANARY))
        Path("given.yaml").write_bytes(text.encode("utf-8", errors="surrogatepass"))
        return _judged(runs(tokens), hospital, folder, "")

    yield from _outcomes(in_a_row(does, seeds, hospital.scratch, seconds=20, gigabytes=2))


def fuzz_sealed(hospital: Hospital, artefact: str, seeds: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """A folder that somebody shares: one value in it odd, its digests made anew; then read by a command."""
    readers = {
        "run": [("export", "run", "--out", "out"), ("embed", "run", "store", "--out", "out.parquet")],
        "bundle": [("export", "bundle", "--out", "out"), ("embed", "bundle", "store", "--out", "out.parquet")],
        "results": [
            ("compare", "results", "results-bare", "--out", "out", "--resamples", "5"),
            ("export", "run", "--out", "out", "--results", "results"),
        ],
        "store": [("check", "store"), ("embed", "run", "store", "--out", "out.parquet")],
        "audited": [("export", "run", "--out", "out", "--results", "audited")],
        "compared": [("export", "run", "--out", "out", "--results", "compared")],
    }[artefact]
    needs = sorted({artefact, "run", "store", *(("results-bare",) if artefact == "results" else ())})
    for each in COMMANDS.values():
        if each.out in needs:
            hospital.make(each.name)
    folder = _room(hospital, tuple(needs))
    (folder / "films").symlink_to(hospital.whole / "films")

    def does(seed: int) -> tuple[str, ...]:
        os.chdir(folder)
        copy(hospital.whole, folder, (artefact,))
        for left in ("out", "out.parquet"):
            shutil.rmtree(left, ignore_errors=True)
            Path(left).unlink(missing_ok=True)
        draw = random.Random(f"{artefact}:{seed}")
        texts = [file for file in files_of(folder / artefact) if file.suffix in (".json", ".jsonl", ".yaml", ".txt")]
        file = draw.choice(texts)
        way = _edit(file, draw, folder)
        _seal_anew(file, folder / artefact)
        return _judged(hospital.does(draw.choice(readers)), hospital, folder, f"[{file.relative_to(folder)}: {way}] ")

    yield from _outcomes(in_a_row(does, seeds, hospital.scratch, seconds=60, gigabytes=6))


def _judged(code: int, hospital: Hospital, folder: Path, at: str) -> tuple[str, ...]:
    out, err = said_so_far(hospital.scratch)
    if (folder / _CANARY).exists():
        (folder / _CANARY).unlink()
        return "code of a stranger was run", at
    if told_patients(out + err, MARK):
        return "a patient's identifier told", at + err
    if code == 0:
        return (READ,)
    wrong = unsaid(err)
    return (wrong.what, at + wrong.note) if wrong else (REFUSED,)


def _outcomes(said: Iterator[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, Outcome]]:
    for seed, words in said:
        known = len(words) == 1 and words[0] in (READ, REFUSED)
        yield seed, Outcome(words[0]) if known else failure(words[0], " ".join(words[1:]))


def _room(hospital: Hospital, names: tuple[str, ...]) -> Path:
    shutil.rmtree(hospital.here)
    hospital.here.mkdir()
    copy(hospital.whole, hospital.here, names)
    return hospital.here


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        section, _, key = name.partition(".")
        if key:
            tree.setdefault(section, {})[key] = value
    return tree


def _changed(whole: str, draw: random.Random) -> str:
    if draw.random() < 0.5:
        tree = yaml.safe_load(whole)
        for _ in range(draw.choice((1, 1, 2))):
            _one_odd(tree, draw, _ODD)
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    lines = whole.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    way = draw.choice(("snippet", "snippet", "snippet", "twice", "gone", "indent", "bytes", "cut"))
    if way == "snippet":
        return "".join([*lines[:place], draw.choice(_SNIPPETS), *lines[place:]])
    if way == "twice":
        return "".join([*lines[:place], lines[place], *lines[place:]])
    if way == "gone":
        return "".join(lines[:place] + lines[place + 1 :])
    if way == "indent":
        return "".join([*lines[:place], draw.choice((" ", "    ", "\t", "- ")), *lines[place:]])
    if way == "cut":
        return whole[: draw.randrange(len(whole))]
    letters = list(whole)
    for _ in range(draw.choice((1, 3))):
        letters[draw.randrange(len(letters))] = draw.choice("\x00\t\n:{}[]&*!|>'\"%@`#-?,\ud800é\x85\u2028")
    return "".join(letters)


def _one_odd(tree: Any, draw: random.Random, odd: Sequence[Any]) -> str:
    """Sets one value of a tree to something odd, takes one away, or adds one; returns where."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(tree)
    if not places:
        return "nothing"
    node, key = draw.choice(places)
    way = draw.random()
    if way < 0.2:
        del node[key]
        return f"{key} gone"
    if way < 0.3 and isinstance(node, dict):
        node[draw.choice(("x", "", "sha256", "checkpoint_path", "pretrained", "format"))] = draw.choice(odd)
        return "a stranger's key"
    node[key] = draw.choice(odd)
    return f"{key} = {node[key]!r:.60}"


class _Canary:
    """Unpickled, it leaves a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.place}",)


def _edit(file: Path, draw: random.Random, folder: Path) -> str:
    """Changes one value of a JSON, JSON lines, YAML or text file."""
    text = file.read_text()
    if file.suffix == ".txt":
        lines = text.splitlines()
        file.write_text(draw.choice(("", "\n", "\n".join(lines[1:]), text + "x\n", "\x00", text * 2)))
        return "other lines"
    if file.suffix == ".yaml":
        file.write_text(_changed(text, draw))
        return "other knobs"
    lines = text.splitlines() if file.suffix == ".jsonl" else [text]
    if not lines:
        return "nothing"
    place = draw.randrange(len(lines))
    tree = json.loads(lines[place])
    if isinstance(tree, dict) and isinstance(tree.get("architecture"), dict) and draw.random() < 0.4:
        (folder / "evil.pth").write_bytes(pickle.dumps(_Canary(folder / _CANARY)))
        hostile = {
            "checkpoint_path": str(folder / "evil.pth"),
            "pretrained": True,
            "pretrained_cfg": {"file": str(folder / "evil.pth")},
        }
        hostile |= {
            "model_name": "local-dir:" + str(folder),
            "depth": 10**7,
            "embed_dim": 10**6,
            "num_heads": 0,
            "scriptable": True,
        }
        hostile |= {
            "pretrained_strict": False,
            "cache_dir": "/",
            "img_size": 10**6,
            "block_fn": "os.system",
            "patch_size": 0,
        }
        key = draw.choice(sorted(hostile))
        tree["architecture"][key] = hostile[key]
        way = f"architecture.{key}"
    else:
        way = _one_odd(tree, draw, _ODD)
    lines[place] = json.dumps(tree)
    file.write_text("\n".join(lines) + "\n")
    return way


def _seal_anew(file: Path, folder: Path) -> None:
    """The digests that somebody who shares a folder can make as well as Chartray."""
    from chartray.outputs.json_file import DIGEST, digest
    from chartray.outputs.seal import SUMS_FILE, seal

    if file.suffix == ".json":
        tree = json.loads(file.read_text())
        if DIGEST in tree:
            del tree[DIGEST]
            file.write_text(json.dumps(tree | {DIGEST: digest(tree)}))
    for sealed in sorted((each.parent for each in folder.rglob(SUMS_FILE)), key=lambda each: -len(each.parts)):
        seal(sealed)
