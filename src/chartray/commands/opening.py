"""What a command reads is opened before torch is imported: a wrong path costs a second, not half a minute."""

from collections.abc import Iterable
from pathlib import Path

from chartray.errors import InputError
from chartray.networks.description import encoder_folder
from chartray.outputs.replacing import refuse_file_above
from chartray.pixels.store import Store


def need_inputs(
    *, encoders: Iterable[Path] = (), stores: Iterable[Path] = (), folders: Iterable[Path] = (), out: Path
) -> None:
    """Raises InputError unless there are an encoder in each of `encoders`, a finished store in each of `stores`, and
    the `folders`, and no file stands where the folder of `out` would be.
    """
    refuse_file_above(out)
    for path in encoders:
        encoder_folder(path)
    for path in folders:
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing"
            raise InputError(f"expected a folder that Chartray wrote at {path}, found {found}; check the path")
    for path in stores:
        Store.open(path)
