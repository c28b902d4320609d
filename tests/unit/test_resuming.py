"""Merges that are estimated, interrupted and taken up again."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import save_file
from small_models import NAMES, folder

import speechmerge
from speechmerge.errors import SpeechMergeError
from speechmerge.merging import engine, estimates, fitting, inputs, merge, output, resuming
from speechmerge.merging.merge import open_merge
from speechmerge.merging.run import Run
from speechmerge.whisper import checkpoints, tensor_files


class Killed(BaseException):
    """Ends a merge as Ctrl-C does; what a kill leaves is the same."""


def interrupted(paths, out, monkeypatch, after: int = 2, **options) -> list[str]:
    """Merge until so many tensors are done; returns their names."""
    done, plain = [], Run.tensor

    def tensor(self, name):
        if len(done) == after:
            raise Killed
        done.append(name)
        return plain(self, name)

    monkeypatch.setattr(Run, "tensor", tensor)
    with pytest.raises(Killed):
        engine.merge_folders("dare", paths[0], paths[1:], out, progress=False, **options)
    monkeypatch.setattr(Run, "tensor", plain)
    assert not out.exists()
    return done


def resumed(paths, out, monkeypatch, **options) -> list[str]:
    """Merge to the end; returns the names of the tensors that were computed."""
    done, plain = [], Run.tensor
    monkeypatch.setattr(Run, "tensor", lambda self, name: (done.append(name), plain(self, name))[1])
    engine.merge_folders("dare", paths[0], paths[1:], out, progress=False, **options)
    monkeypatch.setattr(Run, "tensor", plain)
    assert [x.name for x in out.parent.iterdir() if x.name.startswith(".")] == []
    return done


@pytest.fixture
def paths(base, experts, tmp_path):
    return [folder(tmp_path / f"m{i}", state) for i, state in enumerate((base, *experts))]


def test_an_interrupted_merge_is_taken_up_where_it_was(paths, base, experts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = interrupted(paths, out, monkeypatch)
    second = resumed(paths, out, monkeypatch)
    assert sorted(first + second) == sorted(NAMES)
    assert len(first) == 2
    expected = speechmerge.merge_state_dicts("dare", base, experts)
    assert checkpoints.fingerprint(out) == checkpoints.fingerprint(expected)


def test_other_parameters_or_inputs_start_afresh(paths, base, experts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(paths, out, monkeypatch)
    assert len(resumed(paths, out, monkeypatch, seed=1)) == len(NAMES)
    interrupted(paths, tmp_path / "two", monkeypatch)
    save_file({n: x + 1e-3 for n, x in experts[0].items()}, paths[1] / "model.safetensors")
    assert len(resumed(paths, tmp_path / "two", monkeypatch, strict=False)) == len(NAMES)


def test_an_adapter_whose_statement_changed_starts_afresh(paths, tmp_path, monkeypatch):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name, (rows, columns) = next((n, s) for n, s in NAMES.items() if "fc1.weight" in n)
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    parts = {f"{stem}.lora_A.weight": torch.ones(1, columns), f"{stem}.lora_B.weight": torch.ones(rows, 1)}
    save_file(parts, adapter / "adapter_model.safetensors")
    paths, out = [*paths, adapter], tmp_path / "out"
    for alpha in (0.01, 0.02):
        (adapter / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "r": 1, "lora_alpha": {alpha}}}')
        if alpha == 0.01:
            interrupted(paths, out, monkeypatch)
    assert len(resumed(paths, out, monkeypatch)) == len(NAMES)


def test_what_was_damaged_since_is_written_again(paths, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = interrupted(paths, out, monkeypatch, after=4)
    work = tmp_path / ".out.unfinished"
    [entry] = [e for e in tensor_files.header(work / "model.safetensors") if e.stored_name == first[1]]
    with (work / "model.safetensors").open("r+b") as stream:
        stream.seek(entry.start + 4)
        stream.write(b"\x01")
    with (work / resuming.JOURNAL).open("a") as stream:
        stream.write('["cut sho')
    assert first[1] in (again := resumed(paths, out, monkeypatch))
    assert len(again) == 2


def test_an_error_leaves_nothing_and_two_merges_do_not_share_an_output(paths, tmp_path):
    out = tmp_path / "out"
    with (
        resuming.unfinished(out, "key"),
        pytest.raises(SpeechMergeError, match=r"out is being written by another process; wait"),
    ):
        engine.merge_folders("dare", paths[0], paths[1:], out, progress=False)
    with pytest.raises(ValueError, match="of its own"), resuming.unfinished(out, "key"):
        raise ValueError("of its own")
    assert [x.name for x in tmp_path.iterdir() if "out" in x.name] == []


def test_a_merge_never_holds_more_than_its_estimate_of_a_large_table(base, experts):
    found = estimates.estimate(open_merge("task_arithmetic", base, experts))
    assert found.memory == 4 * 36 * (2 * 3 + 3)
    assert found.read == 4 * 4 * sum(math.prod(shape) for shape in NAMES.values())


@pytest.mark.parametrize("method", ["weight_average", "ties", "sce", "dare", "lors", "tsvm", "regmean"])
def test_the_time_is_estimated_for_every_kind_of_method(method, base, experts):
    extras = {"grams": [{n.removesuffix(".weight"): torch.eye(4) for n in NAMES} for _ in experts]}
    opened = open_merge(method, base, experts, extras=extras if method == "regmean" else None)
    found = estimates.estimate(opened)
    assert 0 < found.seconds < 60
    assert "MB of memory and 0 s" in str(found)
    assert "2 min" in str(dataclasses.replace(found, seconds=130.0))


def test_merges_made_at_once_are_those_made_alone_and_are_taken_up_too(paths, tmp_path, monkeypatch):
    """Of a tensor in many blocks too, though the blocks of a method that looks at rows are others."""
    for module in (merge, inputs):
        monkeypatch.setattr(module, "BLOCK", 64)
    told = {
        "dare": {"method": "dare", "scaling": 0.5, "seed": 3},
        "ties": {"method": "ties"},
        "stock": {"method": "model_stock", "per_row": True},
        "half": {"method": "task_arithmetic", "scaling": 0.5, "dtype": torch.bfloat16},
    }
    alone = {n: engine.merge_folders(base=paths[0], experts=paths[1:], output_folder=tmp_path / f"{n} alone",
                                     progress=False, **given) for n, given in told.items()}  # fmt: skip
    done, plain = [], output.Weights.put

    def put(self, name, tensor):
        if len(done) == 9:
            raise Killed
        done.append(name)
        plain(self, name, tensor)

    monkeypatch.setattr(output.Weights, "put", put)
    merges = {tmp_path / "all" / name: given for name, given in told.items()}
    with pytest.raises(Killed):
        engine.merge_many(paths[0], paths[1:], merges, progress=False)
    assert [path.name for path in (tmp_path / "all").iterdir() if not path.name.startswith(".")] == []
    monkeypatch.setattr(output.Weights, "put", lambda self, *given: (done.append(given[0]), plain(self, *given)))
    engine.merge_many(paths[0], paths[1:], merges, progress=False)
    assert sorted(done) == sorted(list(NAMES) * len(told))
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(told)
    for name, one in alone.items():
        other = tmp_path / "all" / name
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
        for file in ("model.safetensors", "config.json"):
            assert (one / file).read_bytes() == (other / file).read_bytes()
        records = [json.loads((made / "merge_recipe.json").read_text()) for made in (one, other)]
        assert {**records[0], "growth": None} == {**records[1], "growth": None}  # not known of one taken up again


def test_a_block_is_read_once_for_all_merges_made_at_once(paths, tmp_path, monkeypatch):
    read, plain = [], inputs.Inputs._room
    monkeypatch.setattr(inputs.Inputs, "_room", lambda self, size: (read.append(size), plain(self, size))[1])
    counts = []
    for many in (1, 10):
        read.clear()
        merges = {tmp_path / f"{many}-{i}": {"method": "task_arithmetic", "scaling": i / 10} for i in range(many)}
        engine.merge_many(paths[0], paths[1:], merges, progress=False, fingerprints=False)
        counts.append(len(read))
    assert counts[0] == counts[1] > 0


def test_what_is_found_out_about_the_whole_model_is_found_once_for_merges_alike(paths, tmp_path, monkeypatch):
    looked, plain = [], fitting.Deltas
    monkeypatch.setattr(fitting, "Deltas", lambda *given: (looked.append(given), plain(*given))[1])
    merges = {tmp_path / f"{i}": {"method": "ties", "scaling": i / 3} for i in range(3)}
    merges[tmp_path / "other"] = {"method": "ties", "density": 0.5}
    engine.merge_many(paths[0], paths[1:], merges, progress=False)
    assert len(looked) == 2


def test_of_merges_made_at_once_one_that_fails_leaves_none(paths, tmp_path):
    merges = {
        tmp_path / "good": {"method": "ties"},
        tmp_path / "bad": {"method": "task_arithmetic", "scaling": 1e9, "dtype": torch.float16},
    }
    with pytest.raises(SpeechMergeError, match="produced NaN or infinity"):
        engine.merge_many(paths[0], paths[1:], merges, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1", "m2", "m3"]
