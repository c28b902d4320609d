"""Transcripts as files: JSON lines, and for people and players the forms that OpenAI's whisper writes.

Times are seconds in JSON lines, whole milliseconds in TSV, clock times in SRT and WebVTT.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from ..errors import ScoringError, nearest
from ..files import atomic_file, atomic_folder
from .predictions import fields, write_lines
from .transcription import Segment, Transcript

FORMATS = ("jsonl", "tsv", "srt", "vtt", "txt")
TIMED = ("tsv", "srt", "vtt")  # forms that are nothing without times


def format_of(output: Path, asked: str | None) -> str:
    """Return the form that is asked for, or else the one that the name of the output says.

    Raises:
        ScoringError: neither says one, or they disagree.
    """
    said = "jsonl" if output.name.endswith(".jsonl.gz") else output.suffix[1:].lower()
    if asked is None and said not in FORMATS:
        close = nearest(said, FORMATS) if said else ""
        raise ScoringError(
            f"{output}: the form of the transcripts is not clear.{close} End the name with one of "
            f"{', '.join('.' + name for name in FORMATS)}, or give --format."
        )
    if asked is not None and said in FORMATS and said != asked:
        raise ScoringError(f"{output} ends in .{said}, but the form asked for is {asked}; leave one of them out.")
    return asked or said


def names(recordings: Iterable[str], form: str) -> dict[str, str]:
    """Return the file that each recording's transcript gets in a folder: its name with another ending.

    Raises:
        ScoringError: two recordings would share a file.
    """
    found: dict[str, str] = {}
    for name in recordings:
        file = PurePosixPath(name).with_suffix(f".{form}").as_posix()
        if file in found.values():
            other = next(key for key, value in found.items() if value == file)
            raise ScoringError(f"{other} and {name} would both be written as {file}; rename one, or write .jsonl.")
        found[name] = file
    return found


def write(transcripts: Iterable[Transcript], output: Path, form: str, files: Mapping[str, str] | None = None) -> int:
    """Write transcripts as they come, and return how many there were; of none nothing is written.

    Args:
        transcripts: of recordings, by id.
        output: a file, or a new folder if ``files`` are given.
        form: one of :data:`FORMATS`; all but JSON lines hold one recording a file.
        files: names in the folder, as :func:`names` gives them.

    Raises:
        SpeechMergeError: the folder exists.
    """
    transcripts = iter(transcripts)
    if (first := next(transcripts, None)) is None:
        return 0
    transcripts = itertools.chain([first], transcripts)
    if form == "jsonl":
        rows = [row(one) for one in transcripts]
        write_lines(rows, output)
        return len(rows)
    if files is None:
        [one] = transcripts
        with atomic_file(output) as file:
            file.write_text(text(one, form), encoding="utf-8")
        return 1
    count = 0
    with atomic_folder(output) as folder:
        for one in transcripts:
            file = folder / files[one.prediction.id]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text(one, form), encoding="utf-8")
            count += 1
    return count


def row(transcript: Transcript) -> dict[str, object]:
    """Return a transcript as a line of JSON says it."""
    said = fields(transcript.prediction) | {"language": transcript.language}
    if transcript.segments is not None:
        said["segments"] = [asdict(segment) for segment in transcript.segments]
    return said


def text(transcript: Transcript, form: str) -> str:
    """Return a transcript as the content of a file of another form than JSON lines."""
    segments: Sequence[Segment] = transcript.segments or ()
    if form == "txt":
        lines = [one.text for one in segments] if transcript.segments is not None else [transcript.prediction.text]
        return "".join(f"{line}\n" for line in lines)
    if form == "tsv":
        told = [(round(1000 * s.start), round(1000 * s.end), s.text.replace("\t", " ")) for s in segments]
        return "start\tend\ttext\n" + "".join(f"{start}\t{end}\t{said}\n" for start, end, said in told)
    said = [one.text.replace("-->", "->") for one in segments]
    if form == "srt":
        times = [f"{_clock(one.start, ',', True)} --> {_clock(one.end, ',', True)}" for one in segments]
        blocks = [f"{i}\n{time}\n{line}\n\n" for i, (time, line) in enumerate(zip(times, said, strict=True), 1)]
        return "".join(blocks)
    times = [f"{_clock(one.start, '.')} --> {_clock(one.end, '.')}" for one in segments]
    return "WEBVTT\n\n" + "".join(f"{time}\n{line}\n\n" for time, line in zip(times, said, strict=True))


def _clock(seconds: float, point: str, hours: bool = False) -> str:
    """Return a time as ``HH:MM:SS.mmm``; WebVTT leaves out hours that are none."""
    rest, thousandths = divmod(round(1000 * seconds), 1000)
    minutes, whole = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    return f"{f'{hour:02d}:' if hours or hour else ''}{minute:02d}:{whole:02d}{point}{thousandths:03d}"
