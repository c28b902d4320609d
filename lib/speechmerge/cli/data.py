"""Commands that bring models and speech here, and keep apart what must not be mixed: fetch, splits."""

import click

from .groups import Group, example


@click.group(cls=Group, epilog=example("speechmerge fetch models"))
def fetch() -> None:
    """Bring models and speech into the cache ($SPEECHMERGE_CACHE)."""


@fetch.command("models", epilog=example("speechmerge fetch models whisper-tiny whisper-base"))
@click.argument("names", nargs=-1)
def fetch_models(names: tuple[str, ...]) -> None:
    """Fetch, convert and verify base models (default: whisper-tiny)."""
    from ..whisper import models

    for name in names or ("whisper-tiny",):
        click.echo(f"{name}: {models.base_model(name)}")


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
