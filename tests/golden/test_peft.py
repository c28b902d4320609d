"""Adapters as peft 0.21 saves them, read here, against what peft's ``merge_and_unload`` makes of them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from speechbook.pages import adapter_tables, cards
from speechbook.study.store import project_root
from speechmerge.errors import CheckpointError
from speechmerge.merging import engine
from speechmerge.merging.adapter_config import FIELDS, METHODS

HERE = Path(__file__).parent / "peft"
CASES = json.loads((HERE / "cases.json").read_text())
REFUSED = {  # peft's merge is no tied Whisper, or not the model that was trained
    "head": "an update of the output head 'proj_out.weight' is stored",
    "table_and_head": "an update of the output head 'proj_out.weight' is stored",
    "tied_pair": r"though it is the table's own \(ensure_weight_tying\)\. Take the head's tensors out",
    "head_whole": "output head 'proj_out.weight' was trained apart from the token table",
    "both_whole": "output head 'proj_out.weight' was trained apart from the token table",
    "table_whole": "was trained and the output head 'proj_out.weight' left as the base's",
}


@pytest.fixture(scope="module")
def vectors():
    with safe_open(HERE / "vectors.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def base():
    sys.path.insert(0, str(HERE))
    try:
        from tiny_base import tensors
    finally:
        sys.path.remove(str(HERE))
    return tensors()


def adapter(folder: Path, case: str, vectors: dict, **changes) -> Path:
    """Write the folder that peft wrote."""
    start = f"{case}/adapter/"
    stored = {name.removeprefix(start): x for name, x in vectors.items() if name.startswith(start)}
    save_file(stored, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CASES[case] | changes))
    return folder


@pytest.mark.parametrize("case", sorted(CASES.keys() - REFUSED.keys()))
def test_the_model_is_the_one_into_which_peft_merges(case, vectors, base, tmp_path):
    found = engine.merged("task_arithmetic", base, [adapter(tmp_path, case, vectors[0])], max_update=100.0)
    changed = {name.removeprefix(f"{case}/merged/") for name in vectors[0] if name.startswith(f"{case}/merged/")}
    assert changed - {"proj_out.weight"}
    for name, start in base.items():
        torch.testing.assert_close(found[name], vectors[0].get(f"{case}/merged/{name}", start), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("case", "words"), REFUSED.items())
def test_what_no_tied_whisper_holds_is_refused(case, words, vectors, base, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        engine.merged("task_arithmetic", base, [adapter(tmp_path, case, vectors[0])])


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "OLoRA", "corda", "loftq", "lora_ga", "new_in_0_22"])
def test_an_adapter_of_a_changed_base_is_refused(start, vectors, base, tmp_path):
    folder = adapter(tmp_path, "plain", vectors[0], init_lora_weights=start)
    with pytest.raises(CheckpointError, match=f"init_lora_weights is '{start}'.*path_initial_model_for_weight"):
        engine.merged("task_arithmetic", base, [folder])


def test_every_field_and_method_of_peft_is_known(vectors):
    assert set(vectors[1]["fields"].split()) <= FIELDS.keys()
    known = {name for names in METHODS.values() for name in names} | {"LORA"}
    assert known == set(vectors[1]["methods"].split())


def test_the_page_says_what_is_read():
    cards.check_block(project_root() / adapter_tables.PAGE, adapter_tables.render())


def test_the_way_out_of_an_update_that_is_stored_twice(vectors, base, tmp_path):
    stored = {name: x for name, x in vectors[0].items() if "proj_out" not in name}
    folder = adapter(tmp_path, "tied_pair", stored, ensure_weight_tying=False)
    name = "model.decoder.embed_tokens.weight"
    found = engine.merged("task_arithmetic", base, [folder], max_update=100.0)[name]
    twice = vectors[0][f"tied_pair/merged/{name}"]  # peft's merge adds it for the table and for the head
    torch.testing.assert_close(found - base[name], (twice - base[name]) / 2, atol=1e-6, rtol=0)
