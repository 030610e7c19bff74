"""What of an encoder's provenance leaves the machine."""

from pathlib import Path

from chartray.networks.description import Init, Provenance
from chartray.wording import without_folders

# Folders of the machine in a provenance: of each only the last part is shared.
_PLACES = ("store", "out", "source")


def shareable(made: Provenance) -> Provenance:
    """The provenance, and that of the weights it started from, without the folders of the machine."""
    said = made.model_dump(include=set(_PLACES), exclude_unset=True)
    changes: dict[str, object] = {name: Path(place).name for name, place in said.items() if isinstance(place, str)}
    if made.command is not None:
        changes["command"] = without_folders(made.command)
    if made.init is not None:
        changes["init"] = _shareable_init(made.init)
    return made.model_copy(update=changes)


def _shareable_init(init: Init) -> Init:
    before = None if init.init is None else _shareable_init(init.init)
    return init.model_copy(update={"source": Path(init.source).name} | ({} if before is None else {"init": before}))
