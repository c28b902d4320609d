"""Fixtures that several files share: models of five tensors, and package trees instead of downloaded packages."""

import pytest
import torch
from corpus_trees import ENGLISH, asterisk_tree, sound, stamp
from small_models import model

from speechmerge.corpora import building


@pytest.fixture
def base() -> dict[str, torch.Tensor]:
    return model(0)


@pytest.fixture
def experts(base) -> list[dict[str, torch.Tensor]]:
    return [model(seed, base) for seed in (1, 2, 3)]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Package trees under tmp_path/debian instead of downloaded ones, and an empty cache."""
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    asked = []

    def fake(names):
        asked.append(names)
        return {name: tmp_path / "debian" / name for name in names}

    monkeypatch.setattr(building, "debian_packages", fake)
    fake.root, fake.asked = tmp_path / "debian", asked
    return fake


@pytest.fixture
def spanish(packages):
    sounds = {
        "hello": "hello: Hola a todos.",
        "digits/1": "uno",
        "digits/0": "cero\ndigits/0: diez",
        "letters/at": "arroba [@]",
        "letters/b": "b",
        "beep": "[tono simple]",
        "number": "El numero de su extension, esta.",
        "later": "...y mas tarde",
        "silence/1": "(un segundo)",
        "star": "marque * ahora",
    }
    script = "; Sounds: a comment\n\n" + "".join(f"{name}: {text}\n" for name, text in sounds.items())
    asterisk_tree(packages.root, "en", ENGLISH, [])
    asterisk_tree(packages.root, "es", script, [*sounds, "untold"])
    return packages


@pytest.fixture
def pictures(packages):
    root = packages.root
    stamp(root, "animals/frog", ["A frog.", "ca.utf8=Una granota.", "es=Una rana."], {"ca": sound(300, rate=22_050)})
    stamp(
        root, "animals/cat", ["A cat.", "ca@valencia.utf8=Un gat.", "es.utf8=Un gato."], {"ca": sound(340, rate=22_050)}
    )
    long = "Un text molt llarg que ningú no ha pogut llegir en tan poc temps com dura."
    stamp(root, "town/house", ["A house.", f"ca.utf8={long}"], {"ca": sound(380, rate=22_050)})
    stamp(root, "town/wall", None, {"ca": sound(420, rate=22_050)})
    english = "Roast turkey is traditionally eaten on Thanksgiving in the United States."
    stamp(root, "food/turkey", [english, "ca.utf8=Un gall dindi."], {"ca": sound(460, rate=22_050)})
    stamp(root, "food/plum", ["A plum.", "ca.utf8=Una pruna."], {"ca": sound(500, rate=22_050)})
    stamp(root, "food/plums", ["A plum again.", "ca.utf8=Una pruna!"], {"ca": sound(500, rate=22_050)})
    stamp(root, "food/pear", ["A pear.", "ca.utf8=Una pera."], {"ca": sound(540, rate=22_050)})
    stamp(root, "food/apple", ["An apple.", "ca.utf8=Una poma."], {"ca": sound(540, rate=22_050)})
    return packages
