"""Embeddings for numpy and for viewers: folders with one array or table of numbers, and a table of names beside.

npy          embeddings.npy (N, D) and patch_tokens.npy (N, P, D), float32, NaN where an image could not be read
projector    vectors.tsv, a row of D numbers an image, as the TensorBoard Embedding Projector reads it, and
             projector_config.pbtxt, so that `tensorboard --logdir FOLDER` does; what could not be read is left out

Both have metadata.tsv, a header and then a row for each row of numbers, and embeddings.json, which says what they are.
"""

import csv
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import JsonValue

from chartray.config.export import EmbeddingForm
from chartray.csv_cells import harmless
from chartray.evaluation.embed_file import DESCRIPTION_FILE
from chartray.outputs.json_file import write_json
from chartray.outputs.replacing import replaced_folder

METADATA_FILE, VECTORS_FILE, CONFIG_FILE = "metadata.tsv", "vectors.tsv", "projector_config.pbtxt"
_TOKENS = {"embedding": "embeddings.npy", "patch_tokens": "patch_tokens.npy"}
# Writes a part whose first row is the given one; which of its rows have numbers in the file.
Write = Callable[[pa.Table, int], NDArray[np.int64]]
_CONFIG = f'embeddings {{\n  tensor_path: "{VECTORS_FILE}"\n  metadata_path: "{METADATA_FILE}"\n}}\n'


def write_form(
    parts: Iterable[pa.Table], out: Path, to: EmbeddingForm, count: int, about: dict[str, JsonValue]
) -> None:
    """Writes the folder `out` from tables of names and tokens with `count` rows in all; `about` describes them."""
    with replaced_folder(out) as folder, ExitStack() as stack:
        names = csv.writer(
            stack.enter_context((folder / METADATA_FILE).open("w", encoding="utf-8", newline="")),
            delimiter="\t",
            lineterminator="\n",
            quoting=csv.QUOTE_NONE,
            quotechar=None,
        )
        if to == "projector":
            (folder / CONFIG_FILE).write_text(_CONFIG, encoding="utf-8")
            write = _vectors(stack.enter_context((folder / VECTORS_FILE).open("w", encoding="utf-8")))
        else:
            write = _arrays(folder, count)
        done = 0
        for part in parts:
            told = part.select([name for name in part.column_names if name not in _TOKENS])
            if not done:
                # Two columns at least: the projector takes a table with one for one without a header.
                names.writerow(["row", *told.column_names])
            kept = write(part, done)
            for row, cells in zip(kept, told.take(pa.array(kept)).to_pylist(), strict=True):
                names.writerow([row + done, *(_cell(cell) for cell in cells.values())])
            done += part.num_rows
        write_json(folder / DESCRIPTION_FILE, about)


def _arrays(folder: Path, count: int) -> Write:
    """Fills an array of each kind of tokens; every row is kept."""
    opened: dict[str, NDArray[np.float32]] = {}

    def write(part: pa.Table, first: int) -> NDArray[np.int64]:
        for name, file in _TOKENS.items():
            if name in part.column_names:
                values = _numbers(part[name].combine_chunks())
                shape = (count, *values.shape[1:])
                if name not in opened:
                    opened[name] = np.lib.format.open_memmap(folder / file, mode="w+", dtype="<f4", shape=shape)
                opened[name][first : first + len(values)] = values
        return np.arange(part.num_rows)

    return write


def _vectors(stream: TextIO) -> Write:
    """Appends the embeddings of images that could be read, seven digits a number."""

    def write(part: pa.Table, first: int) -> NDArray[np.int64]:
        kept = np.flatnonzero(pc.is_valid(part["embedding"]).to_numpy())
        np.savetxt(stream, _numbers(part["embedding"].combine_chunks())[kept], fmt="%.7g", delimiter="\t")
        return kept

    return write


def _numbers(column: pa.FixedSizeListArray) -> NDArray[np.float32]:
    """Lists of one size, or lists of them, as (n, D) or (n, N, D), NaN where null."""
    shape, flat = [len(column)], column
    while pa.types.is_fixed_size_list(flat.type):
        size = flat.type.list_size
        start, rows = flat.offset * size, len(flat) * size
        shape, flat = [*shape, size], flat.values.slice(start, rows)
    values = np.array(flat.to_numpy(zero_copy_only=False), np.float32).reshape(shape)
    values[pc.is_null(column).to_numpy(zero_copy_only=False)] = np.nan
    return values


def _cell(cell: str | None) -> str:
    """A name in one line of one column; a spreadsheet sees no formula in it."""
    return harmless(re.sub(r"[\x00-\x1f\x7f]", " ", cell or ""))
