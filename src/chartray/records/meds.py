"""A MEDS data set (0.3, 0.4): data/**/*.parquet with subject_id, time, code and numeric_value, read in parts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chartray.errors import InputError
from chartray.records.events import ALWAYS, EventPart, dated
from chartray.records.identifiers import whole_numbers
from chartray.records.linking import NOBODY, Integers
from chartray.records.measurements import DatedCells
from chartray.records.reading import folder_content, need_columns, refuse_same_names
from chartray.records.table_cells import parquet_errors
from chartray.records.units import of_code

_COLUMNS = ("subject_id", "time", "code", "numeric_value")


class MedsEvents:
    """The events of the data set in a folder; `stored` is a further column with the time since which each was known."""

    def __init__(self, place: str, stored: str | None) -> None:
        self.where, self._stored = place, stored
        self._columns = [*_COLUMNS, *([stored] if stored else [])]
        self._files = sorted(Path(place, "data").rglob("*.parquet"))
        if not self._files:
            found = folder_content(Path(place))
            raise InputError(
                f"expected a MEDS data set with data/**/*.parquet in {place}, found {found}; check the path"
            )

    def patients(self, ids: pa.StringArray) -> Integers:
        found: Integers = whole_numbers(ids, "the patient", "the images").fill_null(NOBODY).to_numpy()
        return found

    def parts(self, patterns: Sequence[str]) -> Iterator[EventPart]:
        """The events of these codes; one without a time is a fact that always holds."""
        wanted = dict.fromkeys(patterns, 1.0)
        rows, timed = 0, 0
        for file in self._files:
            with parquet_errors(file), pq.ParquetFile(file) as table:
                self._check(file, table.schema_arrow)
                for batch in table.iter_batches(columns=self._columns):
                    rows, timed = rows + batch.num_rows, timed + batch.num_rows - batch["time"].null_count
                    codes = pc.cast(batch["code"], pa.string()).dictionary_encode()
                    mine = [of_code(code, wanted) is not None for code in codes.dictionary.to_pylist()]
                    chosen = pa.array(mine, pa.bool_()).take(codes.indices)
                    yield _part(batch.filter(chosen), self._stored)
        if rows and not timed:
            raise InputError(
                f"expected times in the column 'time' of {self.where}, found none in {rows} rows; without them no "
                "value can be dated before an image"
            )

    def _check(self, file: Path, schema: pa.Schema) -> None:
        need_columns(self._columns, schema.names, str(file))
        refuse_same_names(self._columns, schema.names, str(file))
        for column in ("time", *self._columns[len(_COLUMNS) :]):
            kind = schema.field(column).type
            if not pa.types.is_timestamp(kind) or kind.tz is not None:
                raise InputError(f"expected times without a time zone as {column!r} of {file}, found {kind}")


def _part(batch: pa.RecordBatch, stored: str | None) -> EventPart:
    time = dated(batch["time"])
    static = np.isnat(time)
    at = np.where(static, ALWAYS, time)
    known = at if stored is None else np.where(static, at, dated(batch[stored]))
    patient = whole_numbers(batch["subject_id"], "subject_id", "the MEDS data").fill_null(NOBODY).to_numpy()
    value = pc.cast(batch["numeric_value"], pa.float64())
    code = pc.cast(batch["code"], pa.string())
    cells = DatedCells(patient, code, value, pa.nulls(len(code), pa.string()), at, known)
    return EventPart(cells, np.full(len(code), np.datetime64("NaT", "us")))
