"""A data set on the Hugging Face hub, by ``hub:OWNER/NAME`` or ``hub:OWNER/NAME:CONFIG``."""

from ...errors import SourceError
from .rows import Listing
from .saved import listing

PREFIX = "hub:"


def rows(where: str) -> Listing:
    """Download and read a data set; what was read is kept until the client's own files of it are gone.

    Raises:
        SourceError: the name is none, the hub does not answer, or the data set cannot be read.
    """
    import datasets

    name, _, config = where.removeprefix(PREFIX).partition(":")
    if not name.strip("/") or "/" not in name:
        raise SourceError(
            f"{where!r} names no data set; expected hub:OWNER/NAME, for example hub:google/fleurs:es_419."
        )
    try:
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # of its own, of the client's and of the system's kinds
        raise SourceError(
            f"{where}: the data set cannot be read ({' '.join(str(error).split())}); check its name and configuration, "
            "accept its conditions on the hub if it has any, or download it and name the folder."
        ) from error
    return listing(loaded, where, None)
