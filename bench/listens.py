"""One decoding of clips of several languages, by a system that merges while it listens or by a fixed merge.

python listens.py JOB.json TOLD.json
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from speechmerge import speech
from speechmerge.dynamic import systems
from speechmerge.dynamic.choosing import Models
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.merging import engine
from speechmerge.merging.given import parse
from speechmerge.whisper import models

SETTINGS = Decoding(guard=True)  # one beam; what runs away is decoded again, as the protocol says


def decoder(job: dict[str, Any]) -> Any:
    """Build what decodes."""
    base, experts = models.base_model(job["base"]), tuple(map(Path, job["experts"]))
    if "dynamic" not in job:
        fixed = Decoder(base, SETTINGS)
        fixed.use(engine.merged(job["method"], base, experts, scaling=1 / len(experts)))
        return fixed
    _, params = systems.check(job["dynamic"], len(experts))
    heard = systems.spoken(job["speech"]) if params.get("signal") == "speech" else ()
    options = {"scaling": 1 / len(experts)} if job["method"] == "task_arithmetic" else {}
    return systems.build(Models(base, experts, job["method"], options, heard), job["dynamic"], SETTINGS)


def main() -> None:
    """Build, decode, write seconds a clip and the seconds before the first one."""
    job = json.loads(Path(sys.argv[1]).read_text())
    parts = [part for words in job["speech"] for part in speech.heard(parse(words), "test", job["clips"])]
    clips = [(clip, language) for own, language, _ in parts for clip in own]
    started = time.perf_counter()
    decodes = decoder(job)
    ready, processors = time.perf_counter(), time.process_time()
    decodes.decode([clip for clip, _ in clips], [language for _, language in clips], "asr", progress=False)
    told = {
        "seconds": (time.perf_counter() - ready) / len(clips),
        "cpu_seconds": (time.process_time() - processors) / len(clips),
        "before": ready - started,
    }
    Path(sys.argv[2]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
