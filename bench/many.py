"""Several merges of the same models in one process, folder to folders: ``python many.py JOB.json OUTPUT``."""

import json
import sys
from pathlib import Path

from speechmerge.merging import engine


def main() -> None:
    """Merge as the job says, with fingerprints of all models."""
    job, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    base, *experts = map(Path, job["folders"])
    merges = {output / str(number): given for number, given in enumerate(job["merges"])}
    engine.merge_many(base, experts, merges, progress=False)


if __name__ == "__main__":
    main()
