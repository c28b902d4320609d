"""Merges with the library, folder to folder, as a process of its own: ``python ours.py JOB.json``."""

import json
import sys
from pathlib import Path

from speechmerge.merging import engine


def main() -> None:
    """Merge as the job says, once or in several ways at once.

    Of a single merge, hashing all models for the record is left out unless asked for, peers have none.
    """
    job = json.loads(Path(sys.argv[1]).read_text())
    base, *experts = map(Path, job["folders"])
    output = Path(job["output"])
    if "merges" in job:
        merges = {output / str(number): given for number, given in enumerate(job["merges"])}
        engine.merge_many(base, experts, merges, progress=False)
        return
    options = {"fingerprints": False, "overwrite": True, "progress": False} | job["options"]
    if "grams" in job:
        from speechmerge.merging.calibration import Statistics

        options["extras"] = {"grams": [*map(Statistics, job["grams"])]}
    engine.merge_folders(job["ours"], base, experts, output, **options)


if __name__ == "__main__":
    main()
