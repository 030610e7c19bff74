"""NIH's official lists -> the split of each image; without them the splits are drawn, with a warning."""

import io
import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records.cohort import (
    excluding,
    hashed_split,
    refuse_shared_patients,
    split_by_patient,
)
from chartray.records.reading import without_cells
from chartray.records.warnings import DataWarning
from chartray.schema import SPLIT_SHARES
from chartray.wording import listed

_OFFICIAL = {"train": "train_val_list.txt", "test": "test_list.txt"}
_TEXT = re.compile(r"(.+)\.(?:txt|lst|csv)(?:\.gz)?", re.IGNORECASE)
_IMAGE = re.compile(r"([^/\\]+\.(?:png|jpe?g))\b", re.IGNORECASE)


class _List(NamedTuple):
    """A `file` and the images that it names."""

    file: Path
    images: pa.Array


def split_rows(rows: pa.Table, root: Path, flow: list[FlowStep]) -> tuple[pa.Table, list[DataWarning]]:
    """`rows` (image_id, patient_id) with their `split`, without the images that are in no official list.

    The lists are `train_val_list.txt` and `test_list.txt`, or have similar names (`test_list_NIH.txt`), also as .gz.
    Raises InputError for one list without the other, an image in both, and lists without any image of the rows.
    """
    train, test = (_official(root, kind) for kind in _OFFICIAL)
    if train is None and test is None:
        why = " and ".join(f"no {name}" for name in _OFFICIAL.values())
        drawn = hashed_split(rows["patient_id"], SPLIT_SHARES, flow, why)
        what = (
            f"{why} in {root}, so the splits are drawn by patient; this test split is not NIH's, so scores cannot be "
            "compared with published ones"
        )
        remedy = f"add {' and '.join(_OFFICIAL.values())} to use the official split"
        return rows.append_column("split", drawn), [DataWarning("split", what, rows.num_rows, remedy)]
    if train is None or test is None:
        found = train or test
        assert found is not None
        raise InputError(
            f"expected both {' and '.join(_OFFICIAL.values())} in {root}, or neither, found {found.file.name}; "
            "add the other, or remove this one to draw the splits by patient"
        )
    return _by_lists(rows, train, test, flow), []


def _by_lists(rows: pa.Table, train: _List, test: _List, flow: list[FlowStep]) -> pa.Table:
    in_train, in_test = (pc.is_in(rows["image_id"], value_set=each.images) for each in (train, test))
    both = pc.sum(pc.and_(in_train, in_test)).as_py() or 0
    if both:
        raise InputError(
            f"expected every image in one list, found {both} in both {train.file} and {test.file.name}; correct them"
        )
    if not pc.any(pc.or_(in_train, in_test)).as_py():
        raise InputError(f"expected images of the csv in {train.file} and {test.file.name}, found none of them")
    drawn = split_by_patient(rows["patient_id"], {name: SPLIT_SHARES[name] for name in ("train", "validate")})
    split = pc.if_else(in_test, "test", pc.if_else(in_train, drawn, pa.scalar(None, pa.string())))
    kept = rows.append_column("split", split).filter(pc.is_valid(split))
    step = f"official lists {test.file.name} and {train.file.name}; train and validate drawn by patient"
    flow.append(excluding(step, rows.num_rows, kept.num_rows, "in neither list"))
    refuse_shared_patients(kept["patient_id"], kept["split"], f"{test.file} and {train.file.name}")
    return kept


def _official(root: Path, kind: str) -> _List | None:
    """The list with the official name, else the only file with a similar name that lists images.

    Raises InputError for several such files.
    """
    exact = [file for suffix in ("", ".gz") if (file := root / f"{_OFFICIAL[kind]}{suffix}").is_file()]
    found = [_List(file, images) for file in (exact[:1] or _near(root, kind)) if len(images := _images(file))]
    if len(found) > 1:
        names = listed([str(each.file.relative_to(root)) for each in found])
        raise InputError(f"expected one {_OFFICIAL[kind]} in {root}, found {names}; keep one of them")
    if exact and not found:
        raise InputError(f"expected names of images in {exact[0]}, found none; download it again")
    return found[0] if found else None


def _near(root: Path, kind: str) -> list[Path]:
    """Files with a word that begins with `kind` in their name, in `root` and its folders without images."""
    folders = [root, *(folder for folder in sorted(root.iterdir()) if folder.is_dir() and "images" not in folder.name)]
    return [file for folder in folders for file in sorted(folder.iterdir()) if _is_near(file, kind)]


def _is_near(file: Path, kind: str) -> bool:
    name = _TEXT.fullmatch(file.name)
    words = re.split(r"[^a-z]+", name[1].lower()) if name else []
    return file.is_file() and any(word.startswith(kind) for word in words)


def _images(file: Path) -> pa.Array:
    """The images of a list: the first file name of each line, without its folder."""
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            lines = io.TextIOWrapper(stream, encoding="utf-8-sig").read().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"expected a list of images in UTF-8 in {file}, found other bytes; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"expected a list of images in {file}, found {without_cells(error)}") from None
    return pa.array([found[1].strip() for line in lines if (found := _IMAGE.search(line))], pa.string())
