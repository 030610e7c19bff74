"""The file that `chartray embed` writes: what tells it from other Parquet files, known without importing torch."""

from pathlib import Path

from chartray.outputs.guard import refuse_other_file
from chartray.outputs.parquet_file import metadata_of_parquet

EMBEDDINGS_KEY = b"chartray.embeddings"


def check_embeddings_replaceable(out: Path) -> None:
    """Raises InputError if `out` exists and is no file that `embed` wrote."""
    refuse_other_file(out, "earlier embeddings", lambda file: EMBEDDINGS_KEY in metadata_of_parquet(file))
