"""The same few recordings in every layout of speech of one's own."""

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from speechmerge.audio import SAMPLE_RATE

SPLITS = {"train": 8, "dev": 3, "test": 3}
WORDS = ("sol", "mar", "pan", "luz", "sal", "paz", "rey", "voz", "pie", "mes", "gas", "uva", "ojo", "red")


def sound(hertz: float, seconds: float = 1.0) -> np.ndarray:
    """A tone: float32, shape ``[n]``."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


@dataclass(frozen=True)
class Recording:
    """One recording before it is written somewhere; ``name`` is fit for a file and for LibriSpeech."""

    name: str
    samples: np.ndarray
    text: str
    translation: str
    speaker: str
    split: str


def recordings() -> list[Recording]:
    """Tones of different heights, each with a text of its own, in the three splits."""
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    return [
        Recording(
            f"{number % 3}-7-{number:04d}",
            sound(250 + 40 * number, seconds=1.0 + 0.05 * number),
            f"Digo «{word}», y digo {word} otra vez",
            f"I say {word}",
            f"{number % 3}",
            split,
        )
        for number, (split, word) in enumerate(zip(splits, WORDS, strict=True))
    ]


def many(texts: list[str]) -> list[Recording]:
    """A recording for each text, all of other heights."""
    first = recordings()[0]
    heights = [sound(200 + 13 * number, 1.0) for number in range(len(texts))]
    return [
        replace(first, name=f"clip-{number:03d}", samples=samples, text=text, translation="")
        for number, (samples, text) in enumerate(zip(heights, texts, strict=True))
    ]


def flac(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(flac(samples))
    return path


def table(path: Path, rows: list[dict], mark: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def audiofolder(root: Path, some: list[Recording]) -> Path:
    """One ``metadata.csv``, with a column for the split."""
    for one in some:
        write(root / f"{one.name}.flac", one.samples)
    rows = [
        {"file_name": f"{r.name}.flac", "transcription": r.text, "translation": r.translation, "split": r.split}
        for r in some
    ]
    table(root / "metadata.csv", rows)
    return root


def audiofolder_by_split(root: Path, some: list[Recording]) -> Path:
    """A folder for each split, as the hub has it, with ``metadata.jsonl``."""
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        part = [one for one in some if one.split == split]
        for one in part:
            write(root / name / f"{one.name}.flac", one.samples)
        rows = [{"file_name": f"{r.name}.flac", "text": r.text, "translation": r.translation} for r in part]
        lines(root / name / "metadata.jsonl", rows)
    return root


def parquet(root: Path, some: list[Recording]) -> Path:
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        part = [one for one in some if one.split == split]
        audio = [{"bytes": flac(one.samples), "path": f"{one.name}.flac"} for one in part]
        columns = {
            "audio": pa.array(audio, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "sentence": [one.text for one in part],
            "translation": [one.translation for one in part],
        }
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), root / f"{name}-00000-of-00001.parquet")
    return root


def data_sets(some: list[Recording]):
    """A ``DatasetDict`` whose column is of the type ``Audio``, made without torchcodec."""
    from datasets import Audio, Dataset, DatasetDict, Features, Value

    sound_type = {"bytes": Value("binary"), "path": Value("string")}
    features = Features({"audio": sound_type, "text": Value("string"), "translation": Value("string")})
    parts = {}
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        part = [one for one in some if one.split == split]
        columns = {
            "audio": [{"bytes": flac(one.samples), "path": f"{one.name}.flac"} for one in part],
            "text": [one.text for one in part],
            "translation": [one.translation for one in part],
        }
        parts[name] = Dataset.from_dict(columns, features=features).cast_column("audio", Audio())
    return DatasetDict(parts)


def saved(root: Path, some: list[Recording]) -> Path:
    data_sets(some).save_to_disk(str(root))
    return root


def common_voice(root: Path, some: list[Recording]) -> Path:
    for split in SPLITS:
        rows = [
            {"client_id": r.speaker, "path": f"{r.name}.flac", "sentence": r.text, "translation": r.translation}
            for r in some
            if r.split == split
        ]
        names = list(rows[0])
        text = "\n".join(
            "\t".join(row[name] for name in names) for row in [dict(zip(names, names, strict=True)), *rows]
        )
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.tsv").write_text(text + "\n", encoding="utf-8")
    for one in some:
        write(root / "clips" / f"{one.name}.flac", one.samples)
    return root


def manifest(root: Path, some: list[Recording]) -> Path:
    """One for each split, with cuts of a long recording."""
    gap, at, rows = np.zeros(SAMPLE_RATE // 2, np.float32), 0.0, {split: [] for split in SPLITS}
    for one in some:
        seconds = len(one.samples) / SAMPLE_RATE
        entry = {"audio_filepath": "long.flac", "offset": at, "duration": seconds, "text": one.text}
        rows[one.split].append(entry | {"translation": one.translation})
        at += seconds + 0.5
    write(root / "long.flac", np.concatenate([part for one in some for part in (one.samples, gap)]))
    for split, some_rows in rows.items():
        lines(root / f"{split}_manifest.jsonl", some_rows)
    return root


def kaldi(root: Path, some: list[Recording]) -> Path:
    """A data folder for each split; the recordings of ``test`` are segments."""
    for split in SPLITS:
        part, folder = [one for one in some if one.split == split], root / split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text").write_text("".join(f"{r.name} {r.text}\n" for r in part), encoding="utf-8")
        (folder / "utt2spk").write_text("".join(f"{r.name} {r.speaker}\n" for r in part))
        if split == "test":
            write(root / "wav/long.flac", np.concatenate([one.samples for one in part]))
            ends = np.cumsum([len(one.samples) / SAMPLE_RATE for one in part]).tolist()
            starts = [0.0, *ends[:-1]]
            cuts = zip(part, starts, ends, strict=True)
            (folder / "segments").write_text("".join(f"{r.name} rec {s:.4f} {e:.4f}\n" for r, s, e in cuts))
            (folder / "wav.scp").write_text(f"rec {root / 'wav/long.flac'}\n")
        else:
            paths = [write(root / "wav" / f"{one.name}.flac", one.samples) for one in part]
            pairs = zip(part, paths, strict=True)
            (folder / "wav.scp").write_text("".join(f"{r.name} {path}\n" for r, path in pairs))
    return root


def librispeech(root: Path, some: list[Recording]) -> Path:
    for one in some:
        folder = root / f"{one.split}-clean" / one.speaker / "7"
        write(folder / f"{one.name}.flac", one.samples)
        with (folder / f"{one.speaker}-7.trans.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{one.name} {one.text}\n")
    return root


def plain_table(root: Path, some: list[Recording]) -> Path:
    rows = []
    for one in some:
        path = write(root / "sounds" / f"{one.name}.flac", one.samples)
        rows.append(
            {"path": path.relative_to(root), "text": one.text, "language": "Spanish", "translation": one.translation}
            | {"speaker": one.speaker, "split": one.split}
        )
    return table(root / "speech.csv", rows)


LAYOUTS = (
    *(audiofolder, audiofolder_by_split, parquet, saved, common_voice),
    *(manifest, kaldi, librispeech, plain_table),
)
