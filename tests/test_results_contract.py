"""The results contract: what is written is what is read, and a row of another shape is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from chartray.errors import InputError
from chartray.results.arm import Arm
from chartray.results.folder import ROWS, parsed_record
from chartray.results.schema import Record

RECORDS = sorted({record for kinds in ROWS.values() for record in kinds}, key=lambda record: record.__name__)
CHART, PLAIN = Arm("sex,age", settings="12"), Arm(settings="12")


def filled(record: type[BaseModel]) -> Any:
    """A record with its required fields filled, each by a value of its type."""
    values: dict[str, Any] = {}
    for name, field in record.model_fields.items():
        if field.is_required():
            kind = str(field.annotation)
            arm = PLAIN if name.endswith("_b") else CHART
            values[name] = (
                arm
                if "Arm" in kind
                else ("a", "b")
                if "tuple" in kind
                else 1
                if "int" in kind
                else 0.5
                if "float" in kind
                else "x"
            )
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
