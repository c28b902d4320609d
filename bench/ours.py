"""One merge with the library, folder to folder, as a process of its own: ``python ours.py JOB.json``."""

import json
import sys
from pathlib import Path

from speechmerge.merging import engine


def main() -> None:
    """Merge as the job says; hashing all models for the record is left out unless asked for, peers have none."""
    job = json.loads(Path(sys.argv[1]).read_text())
    base, *experts = map(Path, job["folders"])
    options = {"fingerprints": False, "overwrite": True, "progress": False} | job["options"]
    if "grams" in job:
        from speechmerge.merging.calibration import Statistics

        options["extras"] = {"grams": [*map(Statistics, job["grams"])]}
    engine.merge_folders(job["ours"], base, experts, Path(job["output"]), **options)


if __name__ == "__main__":
    main()
