"""Commands that bring models and speech here, look at them, keep apart what must be: fetch, inspect-data, splits."""

import json
import textwrap

import click

from .groups import Group, example


@click.group(cls=Group, epilog=example("speechmerge fetch models"))
def fetch() -> None:
    """Bring models and speech into the cache ($SPEECHMERGE_CACHE)."""


@fetch.command("models", epilog=example("speechmerge fetch models whisper-tiny whisper-base"))
@click.argument("names", nargs=-1)
def fetch_models(names: tuple[str, ...]) -> None:
    """Fetch, convert and verify base models (default: whisper-tiny), or other upstreams of `fuse list`."""
    from ..fusion import upstreams
    from ..whisper import models
    from ..whisper.catalogue import BASES

    for name in names or ("whisper-tiny",):
        if name in upstreams.UPSTREAMS and name not in (*BASES, "smoke"):
            found = upstreams.load(name)
            click.echo(f"{name}: {found.layers} layers of {found.width}")
        else:
            folder = models.base_model(name)
            models.verify(folder)
            click.echo(f"{name}: {folder}")


@fetch.command("corpora", epilog=example("speechmerge fetch corpora asterisk:es stamps"))
@click.argument("names", nargs=-1)
@click.option("--accept-noncommercial", is_flag=True, help="Agree to licences that forbid commercial use (uqm).")
def fetch_corpora(names: tuple[str, ...], accept_noncommercial: bool) -> None:
    """Fetch corpora, as NAME or NAME:LANGUAGE (default: all that come as packages)."""
    from .. import corpora

    for item in names or [name for name, corpus in corpora.registry().items() if not corpus.synthetic]:
        name, _, language = item.partition(":")
        declared = corpora.find(name, language or None)
        agreed = accept_noncommercial and declared.noncommercial
        if reason := None if names or agreed else corpora.skipped(declared):
            click.echo(f"{name}: not fetched, because {reason}")
            continue
        for code in [language] if language else declared.languages:
            clips = corpora.load(name, code, accept_noncommercial=accept_noncommercial)
            click.echo(f"{name} {code}: {len(clips)} clips, {sum(c.seconds for c in clips) / 60:.1f} minutes")


@click.command("inspect-data", epilog=example("speechmerge inspect-data ./clips_es:es --dropped"))
@click.argument("speech", metavar="WHERE[:LANGUAGE]")
@click.option("--dropped", is_flag=True, help="Name every recording that is left out, with its reason.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object instead.")
@click.option("--kept-apart", type=click.Choice(["equal", "near"]), default="equal", show_default=True)
def inspect_data(speech: str, dropped: bool, as_json: bool, kept_apart: str) -> None:
    """Show what speech of your own holds, and what is left out and why.

    WHERE is a folder with audio and metadata.csv or .jsonl, a CSV or TSV of path and text, a manifest of JSON lines, a
    parquet file or folder, a saved data set, a Common Voice, Kaldi or LibriSpeech folder, or hub:OWNER/NAME[:CONFIG].
    --kept-apart says which sentences never stand in two splits: equal ones, or near-equal ones too.
    """
    from .. import corpora
    from ..corpora import own
    from ..corpora.own.summary import summary
    from ..errors import CorpusError

    name = speech.partition(":")[0]
    if corpora.is_registered(name):
        raise CorpusError(
            f"{name!r} is a corpus of the registry, which data_cards/ describes; a folder of that name is ./{name}."
        )
    where, language = own.parse(speech)
    told = summary(own.read(where, language, kept_apart=kept_apart), dropped=dropped)
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False, indent=1))
        return
    for line in _told(told):
        click.echo(line)


def _told(told: dict) -> list[str]:
    """Write a summary for people."""
    lines = [f"{told['where']}: {told['layout']}", *(f"  {note}" for note in told["notes"])]
    lines.append(f"{told['clips']} clips, {_time(told['seconds'])}; {told['dropped']} left out")
    for code, found in told["languages"].items():
        lengths, rates = found["clip_seconds"], found["characters_per_second"]
        lines += [
            "",
            f"{code or 'language not named'}: {_people(found['speakers'])}, {found['translations']} translated",
        ]
        for split, part in found["splits"].items():
            lines.append(f"  {split:5}  {part['clips']:6} clips  {_time(part['seconds']):>9}")
        lines.append("  seconds a clip: {shortest:.1f} to {longest:.1f}, median {median:.1f}".format(**lengths))
        lines.append("  characters a second: median {median}, nine tenths from {low} to {high}".format(**rates))
    origin = "those of the source" if told["splits_given"] else "drawn by the texts, for the source names none"
    lines += ["", f"splits: {origin}", "", "first clips:"]
    for row in told["first"]:
        lines.append(f"  {row['id']}  {row['seconds']:.1f} s  {row['split']}  {textwrap.shorten(row['text'], 90)}")
    if told["reasons"]:
        lines += ["", "left out:"]
    for one in told["reasons"]:
        example = f"{one['first']}: {one['found']}" if one["found"] else one["first"]
        lines.append(f"  {one['clips']:6} {one['reason']} (first: {example})")
    if told.get("dropped_clips"):
        lines += ["", "every recording that is left out:"]
        lines += [f"  {one['id']}: {one['reason']}" for one in told["dropped_clips"]]
    return lines


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _people(speakers: int) -> str:
    return f"{speakers} speaker{'s' * (speakers != 1)}" if speakers else "speakers not named"


@click.command(epilog=example("speechmerge splits"))
@click.option("--write", is_flag=True, help="Replace the table of splits by what the fetched corpora give.")
def splits(write: bool) -> None:
    """Keep near-equal sentences of all packaged corpora in one split, and say which clips that moves.

    Ends with exit code 1 if the table differs and is not replaced.
    """
    from .. import corpora
    from ..corpora import nearness

    known = corpora.packaged()
    domains = [name for corpus in corpora.registry().values() for name in corpus.domains]
    found = nearness.assign(known, domains)
    moved, new = nearness.changes(found)
    for (corpus, language, domain), sizes in nearness.sizes(found, domains).items():
        told = ", ".join(f"{sizes[split]} {split}" for split in corpora.SPLITS)
        click.echo(f"{'/'.join(filter(None, (corpus, domain)))} {language}: {told}")
    for clip, before in moved[:20]:
        click.echo(f"{clip.source} {clip.language} {clip.id}: {before} -> {clip.split}")
    click.echo(f"{len(found)} clips, {len(moved)} in another split than before, {len(new)} new")
    if write:
        nearness.write_table(found)
    elif moved or new:
        raise SystemExit(1)
