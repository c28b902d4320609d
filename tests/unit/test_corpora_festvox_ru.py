"""The Russian Festival voice: the join of sentences and recordings."""

import pytest
import soundfile
from corpus_trees import asterisk_tree, sound

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.corpora import festvox_ru
from speechmerge.errors import CorpusError


def voice(root, lines, names):
    folder = root / festvox_ru.PACKAGE / festvox_ru.VOICE
    for name in ("etc", "wav"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "etc/txt.done.data").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, name in enumerate(names):
        soundfile.write(folder / f"wav/{name}.wav", sound(300 + 40 * number, seconds=2.0), SAMPLE_RATE)
    return folder


def test_sentences_join_by_id_without_stress_marks(packages):
    lines = ['( ru_0001 "+Окна многоэтажных домов." )', '( ru_0002 "Она завела прядь вол+ос за ухо." )']
    voice(packages.root, lines, ["ru_0001", "ru_0002", "ru_0003"])
    clips = corpora.load("festvox_ru", "ru")
    assert [clip.text for clip in clips] == ["Окна многоэтажных домов.", "Она завела прядь волос за ухо."]
    assert all(clip.translation is None and clip.licence == "MIT-Festival" for clip in clips)
    assert corpora.stored(festvox_ru.CORPUS, "ru")["dropped"] == {"no transcript": 1}


def test_a_line_of_another_form_is_refused(packages):
    voice(packages.root, ['( ru_0001 "Окна." )', "ru_0002 Она"], [])
    with pytest.raises(CorpusError, match=r"txt\.done\.data, line 2: found 'ru_0002 Она'"):
        corpora.load("festvox_ru", "ru")


def test_sentences_shared_with_the_prompts_fall_into_the_same_split(packages):
    texts = [f"{noun} {word} занят" for noun in ("Номер", "Первый", "Новый") for word in ("один", "два", "сто", "семь")]
    numbers = range(len(texts))
    asterisk_tree(packages.root, "en", "hello: Hello.\n", [])
    script = "".join(f"p{number}: {texts[number]}.\n" for number in numbers)
    asterisk_tree(packages.root, "ru", script, [f"p{number}" for number in numbers])
    lines = [f'( ru_{number} "{texts[number].replace("о", "+о", 1)}!" )' for number in numbers]
    voice(packages.root, lines, [f"ru_{number}" for number in numbers])
    both = [clip for name in ("asterisk", "festvox_ru") for clip in corpora.load(name, "ru")]
    assert len(both) == 2 * len(texts)
    assert len({clip.split for clip in both}) > 1, "the law would hold trivially within one split"
    corpora.check(both)
