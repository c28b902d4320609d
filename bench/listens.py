"""One decoding of clips of several languages, by a system that merges while it listens or by a fixed merge.

python listens.py JOB.json TOLD.json
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from speechmerge import speech
from speechmerge.dynamic import systems
from speechmerge.dynamic.choosing import Models
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.finetuning.training_recipe import Source
from speechmerge.merging import engine
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


def share(answer: int | tuple[int, ...], expert: int) -> float:
    """Return how much of what decodes a clip is one expert: chosen alone, or weighed among all."""
    return float(answer == expert) if isinstance(answer, int) else answer[expert] / sum(answer)


def main() -> None:
    """Build, decode; write seconds a clip, those before the first one, and the share that clips' own experts had."""
    job = json.loads(Path(sys.argv[1]).read_text())
    clips = [
        (clip, language, expert)
        for expert, words in enumerate(job["speech"])
        for own, language, _ in speech.heard(Source.parse_all(words), "test", job["clips"])
        for clip in own
    ]
    started = time.perf_counter()
    decodes = decoder(job)
    decodes.decode(clips[0][:1], clips[0][1], "asr", progress=False)  # hears the experts' speech, once for all
    ready, processors = time.perf_counter(), time.process_time()
    decodes.decode([clip for clip, *_ in clips], [language for _, language, _ in clips], "asr", progress=False)
    told = {
        "seconds": (time.perf_counter() - ready) / len(clips),
        "cpu_seconds": (time.process_time() - processors) / len(clips),
        "before": ready - started,
    }
    if answers := getattr(decodes, "answers", None):
        told["own"] = statistics.mean(
            share(answer, expert) for answer, (*_, expert) in zip(answers, clips, strict=True)
        )
    Path(sys.argv[2]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
