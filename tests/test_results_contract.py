"""The results contract: what is written is what is read, and a row of another shape is refused in one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from chartray.config.evaluate import EvaluateOptions
from chartray.errors import InputError
from chartray.outputs.json_file import parsed_record
from chartray.results.arm import Arm
from chartray.results.folder import EMBEDDINGS_FILE, PREDICTIONS_FILE, ROWS, open_evaluation
from chartray.results.manifest import AuditManifest, ComparisonManifest, EvaluationManifest
from chartray.results.schema import Embedding, Prediction, Record, Score

from .evaluation_folders import evaluate, hospital, vit

MANIFESTS = (EvaluationManifest.kind, ComparisonManifest.kind, AuditManifest.kind)

RECORDS = sorted({record for kinds in ROWS.values() for record in kinds}, key=lambda record: record.__name__)
CHART, PLAIN = Arm("sex,age", settings="12"), Arm(settings="12")


def example(annotation: Any, arm: Arm) -> Any:
    """A value of a type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)[0]
    if get_origin(annotation) is tuple:
        return (0.25, 0.75) if float in get_args(annotation) else ("a", "b")
    return {Arm: arm, int: 1, float: 0.5, str: "x"}[annotation]


def filled(record: type[BaseModel]) -> Any:
    """A record with its required fields filled, each by a value of its type."""
    values: dict[str, Any] = {}
    for name, field in record.model_fields.items():
        if field.is_required():
            values[name] = example(field.annotation, PLAIN if name.endswith("_b") else CHART)
    return record.model_validate(values)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_what_is_written_is_what_is_read(record: type[Record]) -> None:
    row = filled(record)
    text = row.model_dump_json()
    assert "NaN" not in text
    again = parsed_record(record, json.loads(text), "line 1 of rows.jsonl")
    assert again == row
    assert again.model_dump_json() == text
    assert {name for name in json.loads(text) if name in ("arm", "arm_a", "arm_b")} == set()  # an arm is flat on disk


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_says_what_it_means(record: type[Record]) -> None:
    assert record.__doc__
    for name, field in record.model_fields.items():
        assert field.description, name


def test_a_row_of_another_shape_is_one_sentence(tmp_path: Path) -> None:
    (record,) = ROWS["results.jsonl"]
    row = json.loads(filled(record).model_dump_json())
    for changed, said in (({"chart": 3}, "arm.chart"), ({"value": "high"}, "value"), ({"extra": 1}, "extra")):
        with pytest.raises(InputError, match=rf"line 4 of results\.jsonl; {said}: .*; make this folder again"):
            parsed_record(record, row | changed, "line 4 of results.jsonl")


def test_a_row_knows_whether_its_label_has_few_positive_patients() -> None:
    row = filled(Score)
    assert not row.few_positives  # the macro counts none
    found = {count: row.replaced(n_positive_patients=count).few_positives for count in (0, 19, 20, 500)}
    assert found == {0: True, 19: True, 20: False, 500: False}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a small evaluation."""
    root = tmp_path_factory.mktemp("contract")
    store = hospital(root / "hospital", patients=60)
    evaluate(
        vit(root / "encoder", run="first", chart="none"),
        store,
        root / "results",
        EvaluateOptions(resamples=20, device="cpu"),
    )
    return root / "results"


def test_every_column_of_the_tables_is_in_the_contract(evaluated: Path) -> None:
    opened = open_evaluation(evaluated)
    for name, record in ((PREDICTIONS_FILE, Prediction), (EMBEDDINGS_FILE, Embedding)):
        table = opened.table(name)
        assert table is not None
        assert set(table.column_names) == set(record.model_fields)
        first = {column: values[0] for column, values in table.slice(0, 1).to_pydict().items()}
        assert parsed_record(record, first, name)


def test_every_file_of_results_has_its_section_in_the_documentation(evaluated: Path) -> None:
    code = "import sys; sys.path.insert(0, 'docs'); import generate; print(generate.results_page())"
    root = Path(__file__).parent.parent
    page = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    sections = set(re.findall(r"^## (\S+)$", page, re.MULTILINE))
    written = {f"{path.name}/" if path.is_dir() else path.name for path in evaluated.iterdir()}
    # probe.json is told of with the probe.
    assert {*written, *ROWS, *MANIFESTS} - {"SHA256SUMS", "probe.json"} <= sections
    for record in RECORDS:
        for name in json.loads(filled(record).model_dump_json()):
            assert f"| `{name}` |" in page, name
    assert "|  |" not in page  # every field has a meaning
    assert {link.lower() for link in re.findall(r"\]\(#(\w+)\)", page)} <= {
        title.lower() for title in re.findall(r"^### (\w+)$", page, re.MULTILINE)
    }
