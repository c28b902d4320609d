"""All layouts of speech of one's own, in the order in which they are tried."""

import os
from pathlib import Path

from ...errors import CorpusError
from . import audiofolder, common_voice, hub, kaldi, librispeech, manifest, parquet_files, saved, table, untold
from .rows import Listing, sounds

# A new layout is one file with a LAYOUT, named here; a folder that looks like several has the first.
MODULES = (saved, audiofolder, kaldi, common_voice, librispeech, parquet_files, manifest, table)


def listed(where: str, *, texts: bool = True) -> tuple[str, Listing]:
    """Return the title of the layout and the rows of a path or hub id.

    Args:
        where: one of them.
        texts: whether it is wanted what is said; folders of sounds alone will do without.

    Raises:
        CorpusError: nothing is there, or it has none of the layouts.
        SourceError: the hub has no such data set or does not answer.
    """
    if where.startswith(hub.PREFIX):
        return "data set of the hub", hub.rows(where)
    path = Path(os.path.expanduser(where)).absolute()
    if not os.path.exists(path):
        raise CorpusError(f"{where}: there is no such file or folder; expected speech with its transcripts.")
    for module in MODULES if texts else (*MODULES, untold):
        if module.LAYOUT.found(path):
            return module.LAYOUT.title, module.LAYOUT.rows(path)
    raise CorpusError(f"{where}: {_holds(path)}; expected one of: {', '.join(m.LAYOUT.title for m in MODULES)}.")


def _holds(path: Path) -> str:
    """Say what there is instead of a layout that is known."""
    if path.is_file():
        return f"a file {path.suffix or 'without an ending'} is no table or manifest of speech"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir() if not entry.name.startswith("."))
    if found := sounds(path):
        return f"found {len(found)} sounds but no transcripts (write metadata.csv with the columns file_name,text)"
    return f"found {', '.join(names[:5]) or 'nothing'}{' ...' if len(names) > 5 else ''}"
