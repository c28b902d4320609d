"""Tables keep the experiment's order, refuse gaps, and change no number."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_comparisons, made_up_rows

from speechbook.study import experiments
from speechbook.tables import outcomes, results
from speechmerge.errors import StudyError
from speechmerge.evaluation.scoring import Counts

SYSTEMS = ["Pretrained", "Finetuned", "Multi-lingual training", "Weight Averaging", "Task Arithmetic"]


@pytest.fixture
def rows():
    return pd.DataFrame(made_up_rows(experiments.plan("table1", "speech", [0]))).sample(frac=1, random_state=0)


@pytest.fixture
def two_tasks():
    return outcomes.measured(pd.DataFrame(made_up_rows(experiments.plan("table4", "speech"))))


def comparisons(name, seeds=None):
    return results.tidy(paired=pd.DataFrame(made_up_comparisons(experiments.plan(name, "speech", seeds))))


def test_rows_come_in_the_order_of_the_experiment(rows):
    found = outcomes.measured(rows)
    assert list(found["system"].unique()[:5]) == SYSTEMS
    assert list(found["language"].unique()) == ["ca", "es", "fr", "it", "ru", "macro", "pooled"]
    assert len(found) == len(rows)


def test_scores_are_in_the_units_that_are_shown(two_tasks):
    asr, st = (two_tasks[two_tasks["task"] == task] for task in ("asr", "st"))
    assert np.allclose(asr["value"], 100 * asr["wer"]) and np.allclose(asr["high"], 100 * asr["ci_high"])
    assert np.allclose(st["value"], st["bleu"]) and np.allclose(st["low"], st["ci_low"])
    assert list(st["language"].unique()) == ["ca", "es", "fr", "it", "ru", "macro"]


def test_one_seed_is_shown_and_the_base_belongs_to_every_seed(rows):
    second = rows[rows["method"] != "none"].assign(seed=1, wer=0.9)
    both = pd.concat([rows, second])
    assert outcomes.value(outcomes.measured(both), "Finetuned") < 0.9
    other = outcomes.measured(both, seed=1)
    assert outcomes.value(other, "Finetuned") == 0.9
    assert outcomes.value(other, "Pretrained") == outcomes.value(outcomes.measured(rows), "Pretrained")


def test_a_gap_is_named(rows):
    gap = rows[~((rows["system"] == "SVP-Merging") & (rows["language"] == "ru"))]
    with pytest.raises(
        StudyError, match=r"lacks 1 of 56 rows of seed 0, the first of SVP-Merging asr ru; run `speechmerge study run"
    ):
        outcomes.measured(gap)


@pytest.mark.parametrize(
    ("experiment", "system", "task", "language", "value", "count"),
    [
        ("table1", "LoRS-Merging", "asr", "pooled", 18.85, 8 * 6),
        ("table1", "Pretrained", "asr", "ca", 20.6, 8 * 6),
        ("table2", "Finetuned", "st", "macro", 26.18, 8 * 6),
        ("table3", "LoRS-Merging", "st", "macro", 26.48, 8 * 2),
        ("table4", "ML training + MT LoRS-Merging", "asr", "pooled", 17.82, 11 * 12),
        ("table4", "ML training + MT LoRS-Merging", "st", "it", 27.0, 11 * 12),
        ("table8", "Weight Averaging", "st", "nl", 32.2, 8 * 6),
    ],
)
def test_published_values_are_the_papers(experiment, system, task, language, value, count):
    paper = outcomes.published(experiment)
    assert paper.set_index(["system", "task", "language"])["published"][system, task, language] == value
    assert len(paper) == count


def test_the_comparison_shows_per_cent_intervals_and_published_values(rows):
    found = outcomes.measured(rows)
    shown = outcomes.comparison(found, outcomes.published("table1"))
    assert list(shown.columns) == ["ca", "es", "fr", "it", "ru", "all", "95 % interval", "published"]
    wer = outcomes.value(found, "Task Arithmetic")
    low, high = (outcomes.value(found, "Task Arithmetic", end) for end in ("ci_low", "ci_high"))
    assert shown.loc["Task Arithmetic", "all"] == f"{100 * wer:.1f}"
    assert shown.loc["Task Arithmetic", "95 % interval"] == f"{100 * low:.1f}\u2060–\u2060{100 * high:.1f}"
    assert shown.loc["Task Arithmetic", "published"] == "19.23"


def test_two_tasks_stand_side_by_side_and_what_is_not_published_stays_empty(two_tasks):
    shown = outcomes.comparison(two_tasks, outcomes.published("table4"), average=True)
    assert list(shown["BLEU"].columns) == ["mean", "95 % interval", "chrF", "published"]
    bleu = outcomes.value(two_tasks, "ML training", "bleu", task="st")
    assert list(shown["BLEU"].loc["ML training"])[::3] == [f"{bleu:.1f}", "25.72"]
    assert shown["WER, %"].loc["ML training", "published"] == "19.69"
    assert set(shown.loc["Sequential training"][:, "published"]) == {""}
    assert list(outcomes.comparison(two_tasks, average=False)["BLEU"].columns) == ["ca", "es", "fr", "it", "ru"]


def test_measured_stands_beside_published_in_shared_languages(rows):
    shown = outcomes.beside(outcomes.measured(rows), outcomes.published("table1"))
    assert list(shown.columns.get_level_values(0).unique()) == ["ca", "es", "fr", "it"]
    assert shown.loc["Pretrained", ("ca", "paper")] == "20.6"
    wer = outcomes.value(outcomes.measured(rows), "Pretrained", language="ca")
    assert shown.loc["Pretrained", ("ca", "here")] == f"{100 * wer:.1f}"


def test_paired_differences_are_shown_in_points_with_a_sign():
    shown = outcomes.paired(comparisons("table1", [0]), "Task Arithmetic")
    assert list(shown.loc["Pretrained"]) == ["−3.0", "−5.0\u00a0to\u00a0−1.0", "<\u00a00.001"]
    assert list(shown.loc["LoRS-Merging"]) == ["+0.1", "−1.9\u00a0to\u00a0+2.1", "0.001"]
    assert "Task Arithmetic" not in shown.index and len(shown) == 7


def test_paired_differences_tell_how_many_seeds_agree():
    found = comparisons("table1", [0])
    seeds = pd.concat([found, found.assign(seed=1), found.assign(seed=2, low=10, high=20)])
    shown = outcomes.paired(seeds, "Task Arithmetic")["seeds that agree"]
    assert list(shown[["Pretrained", "Finetuned", "LoRS-Merging"]]) == ["2 of 3", "3 of 3", "2 of 3"]


def test_paired_differences_of_two_tasks_are_groups():
    shown = outcomes.paired(comparisons("table4"), "ML and MT training")
    assert list(shown.columns.get_level_values(0).unique()) == ["WER", "BLEU"]
    assert len(shown) == 11


@pytest.mark.parametrize(
    ("ends", "asr", "st"),
    [
        ((-0.05, -0.01), "fewer word errors than", "a lower BLEU than"),
        ((0.01, 0.05), "more word errors than", "a higher BLEU than"),
        (
            (-0.02, 0.02),
            "neither reliably fewer nor reliably more word errors than",
            "neither a reliably lower nor a reliably higher BLEU than",
        ),
    ],
)
def test_the_verdict_says_no_more_than_the_intervals_of_all_seeds(ends, asr, st):
    line = {"system": "a", "against": "b", "variant": "", "seed": 0, "difference": 0, "p_value": 0.5}
    line |= {"ci_low": ends[0], "ci_high": ends[1]}
    found = results.tidy(paired=pd.DataFrame([line | {"task": task} for task in ("asr", "st")]))
    assert results.verdict(found, "a", "b") == asr
    assert results.verdict(found, "a", "b", "st") == st
    unsure = pd.concat([found, found.assign(low=-1.0, high=1.0)])
    assert results.verdict(unsure, "a", "b").startswith("neither")


def test_systems_are_sorted_by_verdict():
    found = comparisons("table1", [0])
    said = results.verdicts(found, SYSTEMS, "Task Arithmetic")
    assert said == (
        "Pretrained makes fewer word errors than Task Arithmetic; Finetuned makes more word errors than it; "
        "Multi-lingual training and Weight Averaging cannot be told apart from it"
    )
    three = ["Weight Averaging", "MP-Merging", "LoRS-Merging"]
    better = comparisons("table2").assign(low=10, high=20)
    said = results.verdicts(better, three, "Task Arithmetic", "st")
    assert said == "Weight Averaging, MP-Merging and LoRS-Merging have a higher BLEU than Task Arithmetic"


def test_a_verdict_on_systems_that_were_not_compared_is_refused():
    with pytest.raises(StudyError, match="'Finetuned' was not compared with 'SVP-Merging' in task 'asr'"):
        results.verdict(comparisons("table1", [0]), "Finetuned", "SVP-Merging")


def counts(errors, words):
    ids = tuple(str(i) for i in range(len(errors)))
    return Counts(ids, np.array(errors), np.array(words), 0, 0, 0, 0, 1, 1, 0)


def test_scored_rows_pool_words_over_languages():
    found = outcomes.scored({"a": [counts([1, 1], [4, 4]), counts([3], [4])]}, {"a": "none"}, ["es", "it"])
    assert list(found["language"]) == ["es", "it", "pooled"]
    assert list(found["wer"]) == [0.25, 0.75, 5 / 12]
    assert list(found["runaway"]) == [1, 1, 2]
    assert (found["ci_low"] <= found["wer"]).all() and (found["wer"] <= found["ci_high"]).all()


def test_who_reads_rows_does_not_wait_for_transformers():
    """Its import takes longer than a chapter's own work, and a book has many chapters."""
    code = (
        "import sys\nfrom speechbook.figures import curves, plots\nfrom speechbook.pages import provenance\n"
        "from speechbook.tables import choices, costs, domains, evidence, growth, leaders\n"
        "from speechbook.tables import outcomes, series, sweeps, transfer\n"
        "from speechbook.study import experiments\n"
        "experiments.plan('table1', 'speech')\nsys.exit('transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
