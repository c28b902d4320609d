"""Numbers of a corpus's data card, counted from the clips themselves and written between two marks in the card.

A card is ``data_cards/NAME.md``; everything outside the marks is prose and is never touched.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from speechmerge import corpora
from speechmerge.corpora import SPLITS, Clip
from speechmerge.errors import BookError
from speechmerge.files import atomic_file

from ..study import protocol

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
NOT_COUNTED = "*Not run here:* the clips are drawn on a machine that reaches the hub, or that has the files."
FEWEST = 60  # dev or test clips that a cell of the study should have
COLUMNS = {  # heading: field of a row of statistics(), format
    "language": ("language", "{}"),
    "split": ("split", "{}"),
    "clips": ("clips", "{}"),
    "minutes": ("minutes", "{:.1f}"),
    "words": ("words", "{}"),
    "unique transcripts": ("transcripts", "{}"),
    "with English": ("translated", "{}"),
    "mean seconds": ("mean_seconds", "{:.2f}"),
    "characters a second": ("characters_per_second", "{:.1f}"),
}


def statistics(corpus: str) -> list[dict]:
    """Count a corpus: one row for each language and split, in the order of the declaration.

    Returns:
        Rows with ``language, split, clips, minutes, words, transcripts, translated, mean_seconds`` and
        ``characters_per_second``; ``transcripts`` counts unique ones, ``translated`` the clips with English.

    Raises:
        CorpusError: unknown corpus, or damaged speech.
        SourceError: the packages cannot be had.
    """
    rows = []
    for language in corpora.find(corpus).languages:
        clips = corpora.load(corpus, language)
        for split in SPLITS:
            rows.append({"language": language, "split": split} | _count([c for c in clips if c.split == split]))
    return rows


def _count(clips: list[Clip]) -> dict:
    """Count the clips of one language and split."""
    seconds = sum(clip.seconds for clip in clips)
    keys = [corpora.transcript_key(clip.text) for clip in clips]
    return {
        "clips": len(clips),
        "minutes": seconds / 60,
        "words": sum(len(key.split()) for key in keys),
        "transcripts": len(set(keys)),
        "translated": sum(clip.translation is not None for clip in clips),
        "mean_seconds": seconds / len(clips) if clips else 0.0,
        "characters_per_second": sum(len(clip.text) for clip in clips) / seconds if clips else 0.0,
    }


def domain_table(corpus: str) -> list[str]:
    """Write clips and minutes of each domain and split, and the words of test, as lines of a Markdown table."""
    heads = [head for split in SPLITS for head in (f"{split} clips", "minutes")]
    declared, rows = corpora.find(corpus), []
    for language in declared.languages:
        clips = corpora.load(corpus, language)
        for domain in declared.domains:
            counts = [_count([c for c in clips if (c.domain, c.split) == (domain, split)]) for split in SPLITS]
            numbers = [number for count in counts for number in (count["clips"], f"{count['minutes']:.1f}")]
            rows.append([domain, *numbers, counts[-1]["words"]])
    return table(["domain", *heads, "words in test"], rows)


def near_table(corpus: str) -> list[str]:
    """Write the sizes of the splits that keep near sentences apart beside the others, as lines of a Markdown table.

    A corpus without packages has none: its clips are not among those that were compared. Cells with fewer than
    :data:`FEWEST` dev or test clips are named below the table.
    """
    declared = corpora.find(corpus)
    if not any(map(declared.packages, declared.languages)):
        return []
    rows, few = [], []
    for language in declared.languages:
        near, equal = (corpora.load(corpus, language, kept_apart=rule) for rule in ("near", "equal"))
        for domain in declared.domains or (None,):
            own, before = ([c for c in clips if domain in (None, c.domain)] for clips in (near, equal))
            name, sizes = domain or language, _sizes(own)
            rows.append([name, *sizes, _novel(own), *_sizes(before)])
            few += [name] if min(sizes[1:]) < FEWEST else []
    heads = ["near sentences kept apart", *SPLITS, "novel in test", f"before: {SPLITS[0]}", *SPLITS[1:]]
    lines = ["", *table(heads, rows)]
    return [*lines, "", f"With fewer than {FEWEST} dev or test clips: {', '.join(few)}."] if few else lines


def _sizes(clips: list[Clip]) -> list[int]:
    """Count the clips of each split."""
    return [sum(clip.split == split for clip in clips) for split in SPLITS]


def _novel(clips: list[Clip]) -> int:
    """Count the test clips that the protocol calls novel."""
    threshold = protocol.read().splits.novel
    return sum(clip.split == "test" and clip.similarity < threshold for clip in clips)


def dropped(corpus: str) -> dict[str, dict[str, int]]:
    """Return, for each reason, how many recordings of each language were left out when the corpus was built."""
    declared = corpora.find(corpus)
    counts: dict[str, dict[str, int]] = {}
    for language in declared.languages:
        for reason, count in corpora.stored(declared, language)["dropped"].items():
            counts.setdefault(reason, {})[language] = count
    return dict(sorted(counts.items()))


def render(corpus: str) -> str:
    """Write the numbers of a corpus as Markdown tables: what is kept, what was left out, and the fingerprints.

    Corpora on the hub are not counted, so that a card does not depend on what a machine could download.
    """
    declared = corpora.find(corpus)
    if declared.hub:
        return NOT_COUNTED
    rows = [[form.format(row[name]) for name, form in COLUMNS.values()] for row in statistics(corpus)]
    kept = table(COLUMNS, rows, words=2)
    if declared.domains:
        kept += ["", *domain_table(corpus)]
    kept += near_table(corpus)
    languages = declared.languages
    left_out = ["Nothing was left out."]
    if counts := dropped(corpus):
        rows = [[reason, *(count.get(language, 0) for language in languages)] for reason, count in counts.items()]
        left_out = table(["left out because", *languages], rows)
    prints = [[code, f"`{corpora.stored(declared, code)['fingerprint'][:16]}`"] for code in languages]
    prints = table(["language", "fingerprint of the clips"], prints, words=2)
    return "\n".join([*kept, "", *left_out, "", *prints])


def table(heads: Collection[str], rows: Iterable[Iterable[object]], *, words: int = 1) -> list[str]:
    """Return the lines of a Markdown table; its first columns hold words, and all others numbers."""
    marks = "|---" * words + "|--:" * (len(heads) - words) + "|"
    return [f"| {' | '.join(heads)} |", marks, *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def update_card(path: Path) -> bool:
    """Rewrite the generated block of the card ``NAME.md`` from corpus ``NAME``; tell whether it changed.

    Raises:
        BookError: the card is missing or lacks the marks.
    """
    _parts(path)  # before the work
    return write_block(path, render(Path(path).stem))


def check_card(path: Path) -> None:
    """Raise if the numbers in the card ``NAME.md`` are not those of corpus ``NAME``.

    Raises:
        BookError: naming the first line that differs.
    """
    _parts(path)
    check_block(path, render(Path(path).stem))


def write_block(path: Path, text: str) -> bool:
    """Put ``text`` between the marks of a page; tell whether that changed it.

    Raises:
        BookError: the page is missing or lacks the marks.
    """
    before, old, after = _parts(path)
    if old == f"\n{text}\n":
        return False
    with atomic_file(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return True


def check_block(path: Path, text: str) -> None:
    """Raise unless ``text`` stands between the marks of a page.

    Raises:
        BookError: naming the first line that differs.
    """
    _, old, _ = _parts(path)
    found, expected = old.strip().splitlines(), text.strip().splitlines()
    for line, right in zip([*found, *[""] * len(expected)], expected, strict=False):
        if line != right:
            raise BookError(
                f"{path}: stale numbers; found {line!r}, expected {right!r}. Update the card and read it again."
            )
    if len(found) > len(expected):
        raise BookError(
            f"{path}: stale numbers; {found[len(expected)]!r} no longer comes from the data. Update the card."
        )


def _parts(path: Path) -> tuple[str, str, str]:
    """Split a card at its marks into what stands before, between and after them."""
    path = Path(path)
    if not path.is_file():
        raise BookError(f"{path}: there is no such data card; expected one Markdown file for each corpus.")
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise BookError(f"{path}: expected the marks {BEGIN!r} and {END!r} once each, in this order; put them back.")
    before, rest = text.split(BEGIN)
    between, after = rest.split(END)
    return before, between, after
