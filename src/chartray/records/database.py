"""Connections to databases, in their own module because the import of Ibis takes a second."""

from typing import Any

import ibis

from chartray.errors import InputError
from chartray.records.reading import first_line, no_secret


def connect_database(url: str) -> Any:
    """Connects to a database by URL through Ibis; raises InputError if it cannot."""
    try:
        return ibis.connect(url)
    except ImportError as error:
        raise InputError(
            f"expected Ibis's driver for {no_secret(url)}, found none installed: {first_line(error)}"
        ) from None
    except Exception as error:  # each backend has its own
        raise InputError(
            f"expected a database at {no_secret(url)}, found no connection ({type(error).__name__}); check the URL"
        ) from None
