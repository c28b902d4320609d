"""The registry: what it says of a method, and what it says to a wrong name or value."""

import pytest

import speechmerge
from speechmerge.errors import MethodError
from speechmerge.merging.methods import DATA, FAMILIES, find, registry


def test_calling_the_module_lists_every_method_with_its_parameters():
    listed = speechmerge.methods()
    assert list(listed) == list(registry())
    assert "[0, 1]" in listed["lors"]["density"]
    assert "0.4" in listed["lors"]["density"]


@pytest.mark.parametrize("name", list(registry()))
def test_every_description_is_complete(name):
    about = registry()[name]
    assert about.name == name
    assert about.title
    assert about.equation
    assert about.paper
    assert about.family in FAMILIES
    assert about.summary.endswith(".")
    assert about.idea.startswith(about.summary) and about.idea.endswith(".")
    assert set(about.data) <= set(DATA)
    assert "model" in about.cost
    assert about.acts_on in ("entries", "rows", "tensors", "matrices")
    assert about.scale in ("sum", "mean")
    assert about.variant_of is None or about.variant_of in registry()
    for parameter in about.parameters.values():
        assert parameter.meaning
        if parameter.default is not None:
            assert parameter.check(parameter.default, method=name, experts=2) == parameter.default


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("lors", {"densty": 0.2}, ["densty", "Did you mean 'density'"]),
        ("lors", {"density": 1.5}, ["density is 1.5", "[0, 1]"]),
        ("lors", {"density": "0.2"}, ["'0.2'", "a number in [0, 1]"]),
        ("lors", {"density": True}, ["True", "a number in [0, 1]"]),
        ("lors", {"density": float("nan")}, ["nan", "[0, 1]"]),
        ("lors", {"density": [0.2, 0.3, 0.4]}, ["3 values for 2 experts"]),
        ("slerp", {"t": [0.5, 0.5]}, ["[0.5, 0.5]", "a number in [-10, 10]"]),
        ("dare", {"seed": 1.5}, ["1.5", "a whole number"]),
        ("dare", {"density": [0.5, None]}, ["None", "a number in (0, 1]"]),
        ("wudi", {"scaled": "yes"}, ["'yes'", "true | false"]),
        ("lors", {"rank_mode": "ratios"}, ["Did you mean 'ratio'"]),
        ("task_arithmetic", {"density": 0.2}, ["no parameter 'density'"]),
    ],
)
def test_a_wrong_parameter_gets_a_sentence(method, params, words):
    with pytest.raises(MethodError) as caught:
        find(method).check(params, experts=2)
    assert all(word in str(caught.value) for word in words)
    assert str(caught.value).endswith((".", "?"))


@pytest.mark.parametrize(("name", "flavour"), [(m.name, f) for m in registry().values() for f in m.flavours])
def test_a_flavour_is_a_set_of_parameters_that_single_ones_override(name, flavour):
    about = registry()[name]
    plain, found = (
        about.check({}, experts=about.experts or 3),
        about.check({"flavour": flavour}, experts=about.experts or 3),
    )
    assert found == plain | about.flavours[flavour] | {"flavour": flavour}
    assert found != plain | {"flavour": flavour}
    key = next(iter(about.flavours[flavour]))
    assert about.check({"flavour": flavour, key: plain[key]}, experts=about.experts or 3)[key] == plain[key]


def test_a_misspelt_method_names_the_nearest():
    with pytest.raises(MethodError, match="Did you mean 'task_arithmetic'"):
        find("task_arithmetics")


def test_defaults_are_filled_in_and_values_take_the_parameters_type():
    found = find("lors").check({"density": 1, "rank_ratio": (0, 0.5)}, experts=2)
    assert found == {"rank_ratio": [0.0, 0.5], "density": 1.0, "rank_mode": "ratio", "weights": None}
    assert isinstance(found["density"], float)


def test_the_data_a_method_needs_and_its_cost_are_said_in_words():
    assert find("ties").data == () and find("regmean").data == ("grams",) and find("greedy_soup").data == ("score",)
    assert "eigendecomposition for each matrix and expert" in find("lors").cost
    assert "gradient descent" in find("wudi").cost and "linear system" in find("regmean").cost
    assert find("mp").cost == "one pass over all models"
