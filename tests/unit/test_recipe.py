"""Recipe files: mergekit's shape, the library's own names, and what is refused."""

import itertools
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from speechmerge.errors import CheckpointError, MethodError
from speechmerge.merging import dialect, engine, recipe
from speechmerge.whisper import checkpoints

FC1 = "model.encoder.layers.0.fc1.weight"


def folder(path, seed, base=None):
    path.mkdir()
    fresh = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    state = {FC1: fresh if base is None else base + 0.01 * fresh}
    save_file(state, path / "model.safetensors")
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    (path / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1)))
    return state[FC1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    base = folder(tmp_path / "base", 0)
    for name, seed in (("a", 1), ("b", 2)):
        folder(tmp_path / name, seed, base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(place, **content):
    whole = {"merge_method": "ties", "base_model": "base", "models": ["a", "b"]} | content
    (place / "recipe.yaml").write_text(yaml.safe_dump(whole))
    return place / "recipe.yaml"


def test_mergekits_own_names_and_numbers(place):
    models = [
        {"model": "a", "parameters": {"weight": 0.5, "density": 0.3}},
        {"model": "b", "parameters": {"weight": 2}},
    ]
    found = recipe.read(write(place, models=models, parameters={"lambda": 0.7, "normalize": True, "int8_mask": True}))
    assert (found.method, found.base, found.experts) == ("ties", "base", ("a", "b"))
    assert found.options == {
        "flavour": "mergekit", "scaling": 0.7, "merge": "mean", "weights": [0.5, 2.0], "density": [0.3, 1.0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "parameters", "name", "options"),
    [
        ("dare_linear", {"density": 0.5}, "dare", {"flavour": "mergekit", "density": 0.5}),
        (
            "nuslerp",
            {"weight": 1},
            "slerp",
            {"flavour": "mergekit", "straight_above": 1.0, "floor": 1e-7, "space": "deltas", "t": 0.5},
        ),
        ("multislerp", {}, "multi_slerp", {"space": "deltas"}),
        ("breadcrumbs", {"gamma": 0.02}, "breadcrumbs", {"flavour": "mergekit", "density": 1.0, "outliers": 0.02}),
        (
            "della",
            {"normalize": False, "rescale": True},
            "della",
            {"flavour": "mergekit", "density": 1.0, "window": 0.15, "merge": "sum"},
        ),
        ("ties", {"flavour": "paper"}, "ties", {"flavour": "paper"}),
        ("nuslerp", {"flavour": "paper"}, "slerp", {"flavour": "paper", "space": "deltas", "t": 0.5}),
        ("dare_ties", {"rescale": False}, "dare_ties", {"flavour": "mergekit", "density": 1.0, "rescale": "none"}),
        ("task_arithmetic", {"normalize": 1, "density": 1}, "task_arithmetic", {"weights": [0.5, 0.5]}),
        ("ties", {"density": "0.3", "lambda": "5e-1"}, "ties", {"flavour": "mergekit", "density": 0.3, "scaling": 0.5}),
        (
            "ties",
            {"density": [0.3, 0.3], "weight": [{"filter": "mlp", "value": 2}, {"value": 2}]},
            "ties",
            {"flavour": "mergekit", "density": 0.3, "weights": 2.0},
        ),
        (
            "karcher",
            {"max_iter": 20.0, "tol": "1e-6", "space": "weights"},
            "karcher",
            {"iterations": 20, "tolerance": 1e-6, "space": "weights"},
        ),
        ("model_stock", {"filter_wise": "true"}, "model_stock", {"flavour": "mergekit", "per_row": True}),
        (
            "multislerp",
            {"weight": 1.5, "normalize_weights": False, "eps": "1e-8"},
            "multi_slerp",
            {"space": "deltas", "weights": 1.5, "scaling": 3.0},
        ),
        ("weight_average", {}, "weight_average", {}),
        ("task_arithmetic", {"normalize": False, "rescale": False, "weight": 2}, "task_arithmetic", {"weights": 2}),
        ("model_stock", {"filter_wise": True}, "model_stock", {"flavour": "mergekit", "per_row": True}),
        ("sce", {"select_topk": 0.3, "flavour": "paper"}, "sce", {"flavour": "paper", "density": 0.3}),
        ("lors", {"rank_ratio": [0.1, 0.2], "lambda": 0.15}, "lors", {"rank_ratio": [0.1, 0.2], "scaling": 0.15}),
    ],
)
def test_methods_of_both_kinds(method, parameters, name, options, place):
    found = recipe.read(write(place, merge_method=method, parameters=parameters))
    assert (found.method, dict(found.options)) == (name, options)
    found.merge()


def test_a_written_merge_can_be_repeated_from_its_own_record(place):
    first = engine.merge_folders(
        "ties", place / "base", [place / "a", place / "b"], place / "out", scaling=0.4, density=[0.5, 0.25],
        include="encoder", progress=False,
    )  # fmt: skip
    record = json.loads((first / "merge_recipe.json").read_text())
    (place / "again.yaml").write_text(yaml.safe_dump(record["recipe"]))
    again = recipe.read(place / "again.yaml").run(place / "again", progress=False)
    assert checkpoints.fingerprint(again) == record["fingerprints"]["result"]


@pytest.mark.parametrize("word", [*dialect.READS, *dialect.LACKING])
def test_every_word_of_mergekits_is_taken_or_refused_with_another(word, place):
    values = (0.5, True, False, "1e-8", [0.5, 1], [{"filter": "mlp", "value": 1}, {"value": 2}])
    models = ["a"] if word in ("slerp", "nearswap", "arcee_fusion") else ["a", "b"]
    for key, value in itertools.product(sorted(dialect.WORDS), values):
        try:
            found = recipe.read(write(place, merge_method=word, models=models, parameters={key: value}))
        except MethodError as error:
            assert f"Did you mean {key!r}" not in str(error)
            assert f"Did you mean {word!r}" not in str(error)
        else:
            assert word in dialect.READS
            assert key in dialect.READS[word] or key in ("weight", *found.options)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ({"merge_method": "linear"}, {}),
        ({"merge_method": "weight_average", "parameters": {"weights": [3, 1]}}, {"weights": [3, 1]}),
        ({"merge_method": "nuslerp"}, {"space": "weights", "t": 0.5}),
        ({"merge_method": "multislerp"}, {"space": "weights"}),
        ({"merge_method": "karcher"}, {}),
    ],
)
def test_a_mean_of_models_needs_no_base_and_its_record_repeats_it(content, options, place):
    found = recipe.read(write(place, base_model=None, **content))
    assert (found.base, found.experts) == ("a", ("a", "b"))
    assert options.items() <= found.options.items()
    out = found.run(place / "out", progress=False)
    record = json.loads((out / "merge_recipe.json").read_text())
    (place / "again.yaml").write_text(yaml.safe_dump(record["recipe"]))
    again = recipe.read(place / "again.yaml").run(place / "again", progress=False)
    assert checkpoints.fingerprint(again) == record["fingerprints"]["result"]
    share = 0.75 if "parameters" in content else 0.5
    expected = share * tensor(place / "a") + (1 - share) * tensor(place / "b")
    assert torch.allclose(tensor(out), expected, atol=1e-4)


def test_a_base_that_is_not_listed_counts_where_mergekit_counts_it_and_is_said(place, caplog):
    found = recipe.read(write(place, merge_method="karcher"))
    assert found.experts == ("a", "b", "base")
    assert "counts it as one more, as mergekit does" in caplog.text
    out = found.run(place / "out", progress=False)
    record = json.loads((out / "merge_recipe.json").read_text())["recipe"]
    assert [entry["model"] for entry in record["models"]] == ["a", "b", "base"]
    assert recipe.read(write(place, merge_method="karcher", parameters={"space": "weights"})).experts == ("a", "b")


def test_weights_that_mergekit_reads_past_are_read_past_and_said(place, caplog):
    models = [{"model": "a", "parameters": {"weight": 3}}, "b"]
    found = recipe.read(write(place, merge_method="karcher", base_model=None, models=models))
    assert "weights" not in found.options
    assert "no parameter 'weight' in mergekit" in caplog.text
    assert "or write weights" in caplog.text
    assert recipe.read(write(place, merge_method="karcher", models=models)).experts == ("a", "b", "base")


def test_an_adapter_may_stand_behind_its_base(place):
    shared = {"merge_method": "task_arithmetic", "models": ["base+l", "./base/+m", "a"]}
    assert recipe.read(write(place, **shared)).experts == ("l", "m", "a")
    bare = recipe.read(write(place, merge_method="linear", base_model=None, models=["a", "base+l"]))
    assert (bare.base, bare.experts) == ("base", ("a", "l"))
    (place / "a+b").mkdir()  # a folder of that name is one
    assert recipe.read(write(place, models=["a+b", "a"])).experts == ("a+b", "a")


@pytest.mark.parametrize(
    ("base", "model"),
    [
        ({"model": {"path": "base"}}, {"model": {"path": "a"}}),
        ({"model": "base"}, {"model": "./a"}),
        ("./base", "a/"),
    ],
)
def test_one_model_has_one_name_however_it_is_written(base, model, place):
    models = [{"model": {"model": {"path": "base"}}}, {"model": model}, "b"]
    found = recipe.read(write(place, name="mine", base_model=base, models=models, tokenizer={"source": model}))
    assert (found.base, found.experts) == ("base", ("a", "b"))
    pair = {"model": {"path": "./base"}, "lora": {"path": "b"}}
    assert recipe.read(write(place, base_model=base, models=[{"model": pair}])).experts == ("b",)


def test_an_adapter_alone_needs_its_base(place):
    (place / "l").mkdir()
    (place / "l" / "adapter_config.json").write_text("{}")
    with pytest.raises(MethodError, match=r"l is an adapter; name its base as base_model, or write BASE\+l"):
        recipe.read(write(place, merge_method="linear", base_model=None, models=["a", "l"]))


@pytest.mark.parametrize(
    "content",
    [
        {"tokenizer_source": "base"},
        {"tokenizer_source": "union"},
        {"tokenizer_source": "a"},
        {"tokenizer": {"source": "base", "tokens": {}, "pad_to_multiple_of": None}},
        {"tokenizer": {}, "slices": [], "chat_template": None},
    ],
)
def test_tokens_are_the_bases_however_it_is_said(content, place):
    assert recipe.read(write(place, **content)).experts == ("a", "b")


def test_the_written_precision_is_the_last_that_is_named(place):
    assert recipe.read(write(place, dtype="torch.float32")).options["dtype"] == torch.float32
    assert recipe.read(write(place, dtype="bfloat16", out_dtype="float16")).options["dtype"] == torch.float16


def test_checking_finds_a_missing_model_without_merging(place):
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        recipe.read(write(place, models=["a", "nowhere"])).merge()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"merge_method": "tis"}, "Did you mean 'ties'"),
        ({"slices": [{"sources": []}]}, "has 'slices', which is not supported .* list the sources under models"),
        ({"models": []}, "lacks the field 'models'"),
        ({"dtype": "float23"}, "Did you mean 'float32'"),
        ({"parameters": {"densty": 0.2}}, "Did you mean 'density'"),
        ({"parameters": {"lambda": 0.4, "scaling": 0.3}}, "lambda and scaling are one parameter; give one of them"),
        ({"include": "encoder"}, "has 'include' at its top; write it under parameters"),
        ({"parameters": {"density": 2.0}}, r"outside \[0, 1\]"),
        ({"parameters": {"density": [{"filter": "mlp", "value": 0.5}]}}, "density has filters"),
        ({"models": [{"model": "a", "parameters": {"zeros": "positive"}}]}, "zeros cannot differ between models"),
        (
            {"merge_method": "linear", "parameters": {"normalize": False}},
            "has weights that sum to 3; make that 1, or use task_ar",
        ),
        ({"merge_method": "tsvm", "parameters": {"normalize": True}}, "true is not supported; scale with lambda"),
        ({"merge_method": "multi_slerp", "parameters": {"normalize": False}}, "has weights that sum to 2; make that 1"),
        (
            {"merge_method": "dare_linear", "parameters": {"normalize": True, "weight": "much"}},
            "'much', expected a num",
        ),
        (
            {"merge_method": "passthrough"},
            "mergekit's passthrough is not among the methods here; to copy one model scaled",
        ),
        ({"merge_method": "nearswap"}, "nearswap merges exactly 1 expert, got 2"),
        ({"merge_method": "arcee_fusion", "models": ["a"], "parameters": {"t": 0.5}}, "no parameter 't' in mergekit"),
        ({"merge_method": "ramplus_tl", "parameters": {"alpha": -1}}, r"alpha is -1, outside \[0, 1e\+06\]"),
        ({"merge_method": "nuslerp", "parameters": {"nuslerp_flatten": False}}, "merged whole here, so leave it out"),
        ({"merge_method": "multislerp", "parameters": {"eps": 0.1}}, "eps is 0.1, which would shift directions"),
        ({"merge_method": "task_arithmetic", "parameters": {"density": 0.5}}, "dare_linear and ties do"),
        ({"merge_method": "sce", "parameters": {"lambda": 0.5}}, "no parameter 'lambda' in mergekit.* write scaling,"),
        ({"merge_method": "karcher", "parameters": {"t": 0.5}}, "no parameter 't' in mergekit.* leave it out"),
        ({"merge_method": "slerp", "base_model": None}, "slerp goes from it to the other one. Without one work linear"),
        (
            {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}, "b"]},
            "base is not listed and has no weight, but counts .* leave base_model out, or list it",
        ),
        ({"modules": {"encoder": {}}}, "say include: encoder"),
        ({"chat_template": "auto"}, "Whisper has none"),
        ({"out_dtype": "float23"}, "out_dtype is 'float23'. Did you mean 'float32'"),
        ({"tokenizer": {"source": "elsewhere"}}, "from 'elsewhere', which is none of the models"),
        ({"tokenizer": {"source": "base", "pad_to_multiple_of": 64}}, "tokenizer has pad_to_multiple_of"),
        ({"tokenizer": 3}, "tokenizer is 3; expected fields with values"),
        ({"models": [{"model": "a", "speech": 3}]}, "models 'a': speech is 3; expected WHERE:LANGUAGE, or a list of"),
        ({"base_model": "base+l"}, "`speechmerge merge task_arithmetic FOLDER l --base base`"),
        ({"models": ["a", "b+l"]}, "b[+]l is an adapter of another model than base; .* FOLDER l --base b`"),
        ({"merge_method": ["ties"]}, r"merge_method is \['ties'\]; expected a name"),
        ({"base_model": 3}, "base_model is 3; expected the folder or name"),
        ({"base_model": None}, "base_model is missing"),
        ({"models": 3}, "models is 3; expected a list"),
        ({"models": [3]}, r"models\[0\]\.model is 3; expected a folder"),
        (
            {"models": ["a", {"model": "b", "params": {"t": 1}}]},
            "models 'b' has no field 'params'. Did you mean 'parameters'",
        ),
        ({"models": [{"model": "a", "parameters": 3}]}, "models 'a': parameters is 3; expected names with values"),
        (
            {"models": [{"model": "a", "parameters": {"weight": "much"}}]},
            "weight of a model is 'much', expected a number",
        ),
        ({"models": [{"model": "a", "parameters": {"weight": 1}}, "b"]}, "a has a weight and b has none; give each"),
        (
            {"merge_method": "nuslerp", "models": [{"model": "a", "parameters": {"weight": 1}}, "b"]},
            "a has a weight and b has none",
        ),
        ({"models": [{"model": "a", "parameters": {"lambda": 1}}]}, "lambda cannot differ between models"),
        ({"models": [{"model": "a", "parameters": {"normalize": True}}]}, "normalize cannot differ between models"),
        ({"models": [{"model": "a", "parameters": {"wait": 1}}]}, "no parameter 'wait'. Did you mean 'weight'"),
        ({"models": ["base"]}, "at least one other model"),
        ({"models": ["base", "base", "a"]}, "models names base twice"),
        ({"merge_method": "linear", "base_model": None, "models": ["a", "a"]}, "names a twice; name it once, with the"),
        (
            {"merge_method": "slerp", "parameters": {"t": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]}},
            "t has filters; .* include or policy",
        ),
        ({"parameters": [1, 2]}, r"parameters is \[1, 2\]; expected names with values"),
        (
            {"parameters": {"density": [0.1, 0.2]}},
            "density is a list, which the file format reads as one value for each",
        ),
        ({"parameters": {"weight": [1, 2], "flavour": "paper"}}, "weight is a list"),
        ({"parameters": {"density": "much"}}, "'much', expected a number in"),
        ({"parameters": {"lambda": True}}, "lambda is True; expected a finite number"),
        ({"parameters": {"rescale": True, "density": 0.5}}, "ties with rescale: true is not supported; leave it out"),
        ({"parameters": {"include": 3}}, "include is 3; expected a part or pattern"),
        ({"parameters": {"policy": {"EMB": 3}}}, "policy: EMB is to get 3. Known: rule, sum, mean, base"),
        ({"parameters": {"lines": {"alfa": 1}}}, "lines has no 'alfa'. Did you mean 'alpha'"),
        ({"parameters": {"lines": {"order": "up"}}}, "order of lines is 'up'"),
        ({"merge_method": "nuslerp", "parameters": {"weight": 0}}, "nuslerp has weights"),
    ],
)
def test_what_is_refused(content, words, place):
    with pytest.raises(MethodError, match=words):
        recipe.read(write(place, **content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- just\n- a list", r"holds \['just', 'a list'\]; expected fields and their values"),
        (b"", "holds None; expected fields and their values"),
        (b"{", "is not valid YAML: .* line 1"),
        (b"merge_method: !!python/object:os.system x", "not valid YAML"),
        (b"merge_method: ties\nmodels: [a]\nmodels: [b]", "'models' stands twice, line 2"),
        (bytes(range(256)), "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe(content, words, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(MethodError, match=words) as caught:
        recipe.read(tmp_path / "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_missing_file_are_no_recipes(tmp_path):
    with pytest.raises(MethodError, match="Is a directory"):
        recipe.read(tmp_path)
    with pytest.raises(MethodError, match="No such file"):
        recipe.read(tmp_path / "recipe.yaml")


def tensor(found):
    return load_file(found / "model.safetensors")[FC1]


def test_a_base_among_the_models_counts_in_an_average_as_in_mergekit(place):
    models = [{"model": "base", "parameters": {"weight": 1}}, {"model": "a", "parameters": {"weight": 3}}]
    out = recipe.read(write(place, merge_method="linear", models=models)).run(place / "out", progress=False)
    assert torch.allclose(tensor(out), (tensor(place / "base") + 3 * tensor(place / "a")) / 4, atol=1e-6)


def test_slerp_goes_from_the_base_wherever_it_stands(place):
    content = {"merge_method": "slerp", "parameters": {"t": 0.25}}
    outs = [
        recipe.read(write(place, **content, models=models)).run(place / f"out{i}", progress=False)
        for i, models in enumerate((["base", "a"], ["a", "base"], ["a"]))
    ]
    expected = 0.75 * tensor(place / "base") + 0.25 * tensor(place / "a")
    assert all(torch.allclose(tensor(out), expected, atol=1e-4) for out in outs)


def test_a_base_among_the_models_has_no_part_in_task_vectors(place):
    assert recipe.read(write(place, models=["base", "a", "b"])).experts == ("a", "b")


def test_a_wrong_base_is_refused_also_where_the_base_is_one_of_the_models(place):
    folder(place / "other", 9)
    found = recipe.read(write(place, merge_method="linear", models=["base", "other"]))
    with pytest.raises(CheckpointError, match="other is no fine-tune of base"):
        found.run(place / "out", progress=False)
    assert not (place / "out").exists()


def test_variants_are_recipes_of_the_same_models_with_their_own_methods_and_parameters(place):
    variants = [
        {"name": "half", "parameters": {"lambda": 0.5}},
        {"name": "thin", "merge_method": "dare_linear", "parameters": {"density": 0.1}},
    ]
    file = write(place, merge_method="task_arithmetic", parameters={"lambda": 0.7}, dtype="bfloat16", variants=variants)
    found = recipe.read_variants(file)
    assert list(found) == ["half", "thin"]
    half = recipe.read(write(place, merge_method="task_arithmetic", parameters={"lambda": 0.5}, dtype="bfloat16"))
    thin = recipe.read(
        write(place, merge_method="dare_linear", parameters={"lambda": 0.7, "density": 0.1}, dtype="bfloat16")
    )
    assert found == {"half": half, "thin": thin}
    recipe.merge_variants(found, place / "made", progress=False)
    for name, one in (("half", half), ("thin", thin)):
        alone = one.run(place / name, progress=False)
        assert torch.equal(tensor(place / "made" / name), tensor(alone))


def test_a_file_without_variants_has_none_and_one_with_them_is_no_single_recipe(place):
    assert recipe.read_variants(write(place)) == {}
    with pytest.raises(MethodError, match="has 1 variants, which only `speechmerge merge` makes"):
        recipe.read(write(place, variants=[{"name": "one"}]))


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("half", r"variants is 'half'; expected a list\."),
        (["half"], r"variants\[0\] is 'half'; expected fields with values\."),
        ([{"name": "a"}, {"parameters": {}}], r"variants\[1\] lacks the field 'name'\."),
        ([{"name": "../a"}], r"name is '\.\./a'; expected the name of its folder, without a slash"),
        ([{"name": ".a"}], r"name is '\.a'; expected"),
        ([{"name": 3}], r"variants\[0\]\.name is 3; expected the name of its folder"),
        ([{"name": "a"}, {"name": "a"}], r"two variants are called a; give each a name of its own\."),
        ([{"name": "a", "lambda": 1}], r"variants 'a' has no field 'lambda'\."),
        ([{"name": "a", "parameter": {"t": 1}}], r"has no field 'parameter'\. Did you mean 'parameters'\?"),
        ([{"name": "a", "parameters": [1]}], r"variants 'a': parameters is \[1\]; expected names with values"),
        ([{"name": "a", "parameters": {"densty": 1}}], r"ties has no parameter 'densty'\. Did you mean 'density'\?"),
        ([{"name": "a", "merge_method": "fisher"}], r"variant a \(fisher\) is given speech or statistics, or needs"),
        ([{"name": "a"}, {"name": "b", "parameters": {"max_update": 9}}], r"max_update of variant b differs from the"),
        ([{"name": "a"}, {"name": "b", "merge_method": "karcher"}], r"variant b \(karcher\) merges a, b, base on base"),
    ],
)
def test_variants_that_cannot_be_made_together_are_refused(place, variants, message):
    with pytest.raises(MethodError, match=message):
        recipe.read_variants(write(place, variants=variants))
