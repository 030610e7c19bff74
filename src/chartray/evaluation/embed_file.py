"""What `chartray embed` writes: what tells it from other files and folders, known without importing torch."""

from pathlib import Path

from chartray.config.export import EmbeddingForm
from chartray.errors import InputError
from chartray.outputs.guard import refuse_other, refuse_other_file
from chartray.outputs.parquet_file import metadata_of_parquet

EMBEDDINGS_KEY = b"chartray.embeddings"
DESCRIPTION_FILE = "embeddings.json"


def check_embeddings_replaceable(out: Path, to: EmbeddingForm = "parquet", tokens: str = "class") -> None:
    """Raises InputError if `out` exists and is nothing that `embed` wrote in this form, or for tokens that the form
    cannot hold.
    """
    if to == "projector" and tokens != "class":
        raise InputError(f"expected --tokens class with --to projector, a point an image, found {tokens}; use --to npy")
    if to == "parquet":
        refuse_other_file(out, "earlier embeddings", lambda file: EMBEDDINGS_KEY in metadata_of_parquet(file))
        return
    refuse_other(out, lambda names: "" if DESCRIPTION_FILE in names else "no earlier embeddings")
