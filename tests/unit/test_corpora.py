"""What all corpora share: storage, versions, consent, names, splits across corpora, fingerprints."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from corpus_trees import asterisk_tree, sound, stamp

from speechmerge import corpora
from speechmerge.corpora import building, stamps, tones
from speechmerge.errors import CorpusError


def test_order_of_files_does_not_matter(pictures, monkeypatch):
    first = corpora.fingerprint(corpora.load("stamps", "ca"))
    shuffled = replace(
        stamps.CORPUS, items=lambda *a: iter(random.Random(1).sample(found := list(stamps.items(*a)), len(found)))
    )
    clips, _ = building.build(shuffled, "ca")
    assert corpora.fingerprint(clips) == first
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)


def test_second_load_needs_no_package_and_is_equal(pictures):
    first = corpora.load("stamps", "ca")
    asked = len(pictures.asked)
    assert corpora.load("stamps", "ca") == first
    assert len(pictures.asked) == asked


def test_a_new_version_is_built_again(pictures):
    building.read(stamps.CORPUS, "ca")
    building.read(replace(stamps.CORPUS, version=99), "ca")
    assert len(pictures.asked) == 2


def test_damaged_store_is_a_sentence(pictures):
    corpora.load("stamps", "ca")
    path = building.folder_of(stamps.CORPUS, "ca") / "clips.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorpusError, match=r"clips\.parquet: not readable as clips .* fetch the corpus again"):
        corpora.load("stamps", "ca")


def test_nothing_half_built_stays_behind(pictures, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(building.pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="disk full"):
        corpora.load("stamps", "ca")
    assert list(building.folder_of(stamps.CORPUS, "ca").parent.iterdir()) == []


def test_noncommercial_is_refused_once(pictures):
    guarded = replace(stamps.CORPUS, noncommercial=True)
    assert "allows no commercial use" in corpora.skipped(guarded)
    with pytest.raises(CorpusError, match=r"fetch corpora stamps --accept-noncommercial.*ACCEPT_NONCOMMERCIAL=1"):
        building.read(guarded, "ca")
    assert pictures.asked == [], "nothing is downloaded before the licence is accepted"
    accepted = building.read(guarded, "ca", accept_noncommercial=True)
    assert building.read(guarded, "ca") == accepted


def test_noncommercial_is_accepted_by_the_environment(pictures, monkeypatch):
    guarded = replace(stamps.CORPUS, noncommercial=True)
    monkeypatch.setenv(building.CONSENT, "1")
    assert corpora.skipped(guarded) is None
    assert building.read(guarded, "ca")


def test_hub_corpora_are_only_fetched_by_name():
    assert corpora.skipped(stamps.CORPUS) is None
    assert "fixie-ai/covost2" in corpora.skipped(corpora.find("covost2"))


def test_a_domain_is_loaded_apart_and_whole_row_groups_are_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    monkeypatch.setattr(building, "ROW_GROUP", 5)
    low, high = "low", "high"
    varied = replace(
        tones.CORPUS,
        domains=(low, high),
        items=lambda *a: (replace(i, domain=(low, high)[n % 3 == 0]) for n, i in enumerate(tones.items(*a))),
    )
    both = building.read(varied, "es")
    assert [c.id for c in both] == sorted(c.id for c in both)
    assert building.read(varied, "es", domain=high) == [c for c in both if c.domain == high]
    assert 0 < len(building.read(varied, "es", domain=low)) < len(both)


OWN = "Speech of your own is named by the path of its file or folder, which must exist."


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("asterix", "es"), f"There is no corpus 'asterix'. Did you mean 'asterisk'? {OWN}"),
        (("./asterix", "es"), "./asterix: there is no such file or folder, and no corpus of that name."),
        (("asterisk", "de"), "Corpus 'asterisk' has no language 'de'; it has en, es, fr, it, ru."),
        (("uqm", "en", "train", "pkunc"), "Corpus 'uqm' has no domain 'pkunc'. Did you mean 'pkunk'?"),
        (("tones", "es", "train", "pkunk"), "Corpus 'tones' has no domain 'pkunk'. Known: tones."),
        (("tones", "es", "tset"), "There is no split 'tset'. Did you mean 'test'?"),
    ],
)
def test_unknown_names(call, message):
    with pytest.raises(CorpusError) as error:
        corpora.load(*call[:3], domain=call[3] if len(call) > 3 else None)
    assert str(error.value) == message


def test_registry_is_consistent():
    for name, corpus in corpora.registry().items():
        assert corpus.name == name
        assert corpus.languages
        assert corpus.citation.endswith(".")
        assert corpus.version >= 1


WORDS = {"rojo": "red", "azul": "blue", "verde": "green", "negro": "black", "gris": "grey", "alto": "tall"}


def two_corpora(spanish, pictures, english):
    """The same Spanish sentences in two corpora; the pictures' English is that of the prompts, or ``english``."""
    scripts = {"es": "Un gato", "en": "A cat"}
    for code, start in scripts.items():
        words = WORDS if code == "es" else WORDS.values()
        script = "".join(f"p{number}: {start} {word}.\n" for number, word in enumerate(words))
        asterisk_tree(spanish.root, code, script, [f"p{number}" for number in range(len(WORDS))])
    for number, (word, meaning) in enumerate(WORDS.items()):
        samples = sound(1000 + 50 * number, rate=22_050)
        texts = [english or f"A cat {meaning}.", f"es.utf8=Un gato {word}"]
        stamp(pictures.root, f"more/{word}", texts, {"es": samples})
    return [clip for corpus in ("asterisk", "stamps") for clip in corpora.load(corpus, "es")]


def test_corpora_of_a_language_share_no_sentence_across_splits(spanish, pictures):
    both = two_corpora(spanish, pictures, None)
    assert len(both) == 2 * len(WORDS)
    corpora.check(both)
    assert len({clip.split for clip in both}) > 1, "the law would hold trivially within one split"


def test_corpora_that_translate_a_sentence_otherwise_are_not_mixed(spanish, pictures):
    with pytest.raises(CorpusError, match=r"of stamps es .* has the same transcript as .* of asterisk"):
        corpora.check(two_corpora(spanish, pictures, "Something else."))


def test_a_sentence_translated_in_two_ways_stays_in_the_split_of_its_first_clip(pictures):
    english = [f"A cat, number {number}." for number in range(12)]  # in more than one split
    for number, text in enumerate(english):
        samples = sound(1000 + 50 * number, rate=22_050)
        stamp(pictures.root, f"same/{number:02d}", [text, "es.utf8=Un gato"], {"es": samples})
    kept = [clip for clip in corpora.load("stamps", "es") if clip.id.startswith("same/")]
    splits = [corpora.assign_split("", "en", english=text) for text in english]
    assert [clip.split for clip in kept] == [splits[0]] * splits.count(splits[0])
    assert 0 < len(kept) < len(english)


def test_fingerprint_sees_every_field_that_matters_and_no_order():
    clips = corpora.load("tones", "es")
    first = corpora.fingerprint(clips)
    assert corpora.fingerprint(reversed(clips)) == first
    for change in ({"text": "x"}, {"translation": None}, {"split": "dev"}, {"flac": b"x"}, {"id": "x"}):
        assert corpora.fingerprint([replace(clips[0], **change), *clips[1:]]) != first


def test_tones_are_the_same_sounds_under_different_words(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    es, it = corpora.load("tones", "es"), corpora.load("tones", "it")
    assert [clip.flac for clip in es] == [clip.flac for clip in it]
    assert not set(" ".join(c.text for c in es).split()) & set(" ".join(c.text for c in it).split())
    assert [clip.translation for clip in es] == [clip.translation for clip in it]
    assert {split: len(corpora.load("tones", "es", split)) for split in corpora.SPLITS} == tones.SIZES
    assert all(0.6 <= clip.seconds <= 2.0 and clip.speaker == "synthetic" for clip in es)
    again, _ = building.build(tones.CORPUS, "es")
    assert again == es


def test_a_corpus_is_keyed_by_the_code_that_decides_its_clips_alone(tmp_path, monkeypatch):
    folder = tmp_path / "speechmerge/corpora"
    shutil.copytree(Path(building.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(building.__file__).parents[1] / "audio.py", folder.parent)
    monkeypatch.setattr(building, "__file__", str(folder / "building.py"))

    def codes():
        building.hashes.cache_clear()
        return {name: tuple(building.code(corpus)) for name, corpus in corpora.registry().items()}

    def changed(*parts):
        path = folder.joinpath(*parts)
        content = path.read_text()
        path.write_text(content + "# changed\n")
        after = codes()
        path.write_text(content)
        return {name for name in before if before[name] != after[name]}

    before, every = codes(), set(corpora.registry())
    assert changed("..", "audio.py") == changed("base.py") == changed("building.py") == every
    assert changed("stamps.py") == {"stamps"}
    assert changed("parquet.py") == {name for name, corpus in corpora.registry().items() if corpus.hub}
    assert changed("nearness.py") == changed("__init__.py") == changed("own", "rows.py") == set()
    building.hashes.cache_clear()


def test_every_corpus_stands_in_the_file_of_its_name():
    for module in corpora.MODULES:
        assert Path(module.__file__).stem == module.CORPUS.name
    assert len(building.code(stamps.CORPUS)) == 4  # audio, base, building, stamps
