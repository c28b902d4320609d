"""Timings become tables: what is shown, in which words, and what is left empty."""

import pytest

from speechbook.pages import provenance
from speechbook.study import store
from speechbook.tables import benchmarks
from speechmerge.errors import StudyError

IDENTITY = ("method", "size", "hardware")
LINE = {"size": "small", "library": "0.1.0", "date": "2001-01-02"}
TIES = LINE | {"method": "ties", "peer": "mergekit", "ours_s": 23.4, "ratio time / peer": 0.125, "difference": 3e-7}
TSVM = LINE | {"method": "tsvm, rule only", "peer": benchmarks.PLAIN, "ours_cpu_s": 8.2, "ratio cpu / plain": 0.4}
LARGE = LINE | {"size": "large-v3", "method": "ties, fp16 on disk", "peer": "none", "ours_s": 99.0, "ours_gb": 1.234}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))


def keep(name, lines):
    store.write_statistics("bench", "timings", [line | {"hardware": name} for line in lines], identity=IDENTITY)


def test_each_comparison_stands_in_its_own_table():
    keep("one", [TIES, LINE | {"method": "tsvm", "peer": "fusion_bench"}, TSVM, LARGE, TIES | {"size": "tiny"}])
    found = benchmarks.lines()
    shared = benchmarks.against_peers(found)
    assert list(shared.index) == ["ties", "tsvm *"]
    assert shared.loc["ties"].tolist() == ["23", "", "0.12", "", "", "", "", "3e-07"]  # empty: was not measured
    assert benchmarks.against_plain(found).loc["tsvm, rule only", "time"] == "0.40"
    assert list(benchmarks.memory(found).loc["ties, fp16 on disk"]) == ["large-v3", "99", "1.23"]


def test_a_target_is_met_by_a_ratio_that_is_no_larger():
    keep("one", [TIES | {"ratio time / floor": 2.9}, TSVM, TIES | {"size": "tiny", "ratio time / floor": 9.0}])
    found = benchmarks.targets(benchmarks.lines()).reset_index()
    assert found.set_index(["index", "ratio"])["met"].to_dict() == {
        ("ties", "time / floor"): "yes",
        ("ties", "time / peer"): "no",
        ("tsvm, rule only", "cpu / plain"): "no",
    }


def test_the_machine_timed_last_is_shown_and_named():
    keep("old", [TIES | {"date": "2001-01-01"}])
    keep("new", [TSVM])
    found = benchmarks.lines()
    assert list(found["method"]) == ["tsvm, rule only"]
    assert "measured on new, old; date 2001-01-01, 2001-01-02" in repr(provenance.stamp("bench", ["timings"]))


def test_without_timings_a_sentence_says_what_to_run():
    with pytest.raises(StudyError, match="no timings in results/bench; run `make bench`"):
        benchmarks.lines()


def test_merges_made_at_once_are_told_in_times_of_one_and_of_all():
    line = LINE | {"merges": "ten λ", "together_s": 60.0, "ratio s / first": 4.0, "ratio s / apart": 0.4}
    lines = [line | {"hardware": "one"}, line | {"hardware": "one", "size": "tiny", "together_s": 9.0}]
    store.write_statistics("bench", "together", lines, identity=("merges", "size", "hardware"))
    assert benchmarks.together().loc["ten λ"].to_dict() == {
        "seconds": "60", "times the first": "4.00", "of one by one": "0.40",
    }  # fmt: skip


def test_systems_that_listen_are_told_in_times_of_one_merge():
    line = LINE | {"system": "Routing", "experts": 5, "hardware": "one"}
    line |= {"times seconds": 2.5, "times gb": 1.5, "own": 0.25}
    lines = [line | {"hardware": "old", "date": "2001-01-01"}, line]
    store.write_statistics("bench", "listening", lines, identity=("system", "experts", "hardware"))
    [found] = benchmarks.listening().to_dict("records")
    assert found == {"system": "Routing", "experts": 5, "times": 2.5, "memory": 1.5, "own": 0.25}
