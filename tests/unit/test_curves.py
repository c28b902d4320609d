"""Chapters that vary something: their tables change no number, and their figures draw and tell every one."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_changes, made_up_comparisons, made_up_rows, made_up_task_vectors

from speechbook.figures import curves, numbers, style
from speechbook.study import comparisons, estimates, experiments
from speechbook.tables import costs, outcomes, results, series, transfer
from speechmerge.errors import StudyError
from speechmerge.evaluation.resampling import compare
from speechmerge.evaluation.scoring import Counts


@dataclass
class Made:
    """Made-up rows and comparisons of one experiment."""

    rows: pd.DataFrame
    paired: pd.DataFrame
    changes: pd.DataFrame

    @property
    def frame(self):
        return results.tidy(self.rows, self.paired, self.changes)


@pytest.fixture(scope="module")
def made():
    names = ("figure3", "figure4", "figure5", "interference", "retention", "table1")
    plans = {name: experiments.plan(name, "speech") for name in names}
    makers = (made_up_rows, made_up_comparisons, made_up_changes)
    return {name: Made(*(pd.DataFrame(make(plan)) for make in makers)) for name, plan in plans.items()}


@pytest.fixture(scope="module")
def gains(made):
    found = made["figure3"]
    return series.gains(found.frame, series.methods(found.rows))


@pytest.fixture(scope="module")
def matrix(made):
    found = made["interference"]
    return transfer.matrix(found.frame, found.rows, "Pretrained")


@pytest.fixture(scope="module")
def cosines():
    found = pd.DataFrame(made_up_task_vectors("speech"))
    return found[found["kind"] == "cosine"]


@pytest.fixture(scope="module")
def every_figure(made, gains, matrix, cosines):
    by_minutes, labels = series.against_minutes(series.scores(made["figure4"].rows))
    sweep = series.swept(series.scores(made["figure5"].rows))
    found = made["retention"]
    groups = results.differences(found.frame, "Pretrained")
    groups = results.in_panels(groups, series.groups(found.rows), series.methods(found.rows))
    spent = costs.of_systems(outcomes.measured(made["table1"].rows))
    growth = costs.growth(spent, "Multi-lingual training", ["Task Arithmetic"], 6)
    pairs = transfer.pairs(matrix, cosines[cosines["scope"] == "model"])
    said = {"caption": "A caption."}
    return {
        "subsets": curves.lines(series.averaged(gains), faint=gains, x="languages", y="gain", columns=1, **said),
        "minutes": curves.lines(by_minutes, x="minutes", y=labels, logarithmic=True, **said),
        "sweep": curves.lines(sweep, x="share", y="WER", logarithmic=True, columns=3, shared=True, **said),
        "growth": curves.lines(growth, x="languages", y="minutes", **said),
        "matrix": curves.matrix(matrix, down="expert", across="tested on", unit="change, points", **said),
        "changes": curves.changes(groups, unit="change, points", **said),
        "relation": curves.relation(pairs, x="cosine", y="change, %", **said),
    }


def test_every_figure_is_described_and_saved_with_its_numbers(every_figure, tmp_path):
    for figure in every_figure.values():
        assert len(figure.alt) > 80 and figure.alt.endswith(".") and "nan" not in figure.alt
        assert figure.fig.get_figwidth() <= style.WIDTH
    figure = every_figure["subsets"]
    figure.save(tmp_path, "subsets")
    assert len(pd.read_csv(tmp_path / "subsets.csv")) == len(figure.data) == 4 * (4 + 26)


def test_lines_stand_at_their_values_and_systems_apart(every_figure, made):
    transcription, translation = every_figure["minutes"].fig.axes
    assert [axes.get_title(loc="left") for axes in (transcription, translation)] == ["transcription", "translation"]
    assert "WER" in transcription.get_ylabel() and "BLEU" in translation.get_ylabel()
    drawn = {c.get_label(): c.lines[0] for c in transcription.containers}
    rows = made["figure4"].rows
    own = rows[(rows["system"] == "Task Arithmetic") & (rows["task"] == "asr") & (rows["language"] == "pooled")]
    by_variant = own.set_index("variant")["wer"]
    assert np.allclose(drawn["Task Arithmetic"].get_ydata(), [100 * by_variant[f"{m} min"] for m in (3, 6, 12)])
    assert np.allclose(drawn["Task Arithmetic"].get_xdata(), [3, 6, 12], rtol=0.1)
    assert len({tuple(line.get_xdata()) for line in drawn.values()}) == len(drawn) == 5


def test_intervals_are_drawn_from_end_to_end(every_figure, made):
    axes = every_figure["minutes"].fig.axes[0]
    segments = {c.get_label(): c.lines[2][0].get_segments() for c in axes.containers}
    found = series.scores(made["figure4"].rows)
    own = found[(found["task"] == "asr") & (found["system"] == "LoRS-Merging")]
    assert np.allclose([s[:, 1] for s in segments["LoRS-Merging"]], own[["low", "high"]])


def test_two_systems_of_one_family_can_be_told_apart():
    table = pd.DataFrame({"system": ["WA", "TA"], "method": ["weight_average", "task_arithmetic"]})
    first, second = curves._looks(table).values()
    assert first["color"] == second["color"] and first["linestyle"] != second["linestyle"]
    assert first["markerfacecolor"] != second["markerfacecolor"]


def test_the_heat_map_marks_what_is_clear(every_figure, matrix):
    texts = every_figure["matrix"].fig.axes[0].texts
    clear = [text.get_fontweight() == "bold" for text in texts[: len(matrix)]]
    assert clear == list((matrix["low"] > 0) | (matrix["high"] < 0)) and 0 < sum(clear) < len(clear)


@pytest.mark.parametrize("size", [5, 10])
def test_numbers_of_a_heat_map_stay_in_their_cells(size):
    cells = [{"row": f"voice{i}", "column": f"voice{j}"} for i in range(size) for j in range(size)]
    table = pd.DataFrame(cells).assign(value=-12.3, low=-24.5, high=-10.1)
    axes = curves.matrix(table, down="expert", across="voice", unit="points", caption="c").fig.axes[0]
    axes.figure.draw_without_rendering()
    width, height = np.abs(np.diff(axes.transData.transform([(0, 0), (1, 1)]), axis=0))[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert max(box.width for box in boxes) < width and max(box.height for box in boxes) < height / 2
    halves = zip(boxes[: len(table)], boxes[len(table) :], strict=True)
    assert all(value.y0 >= interval.y1 - 1e-6 for value, interval in halves)


@pytest.mark.parametrize(("value", "text"), [(1.26, "+1.3"), (-1.26, "−1.3"), (-0.04, "0.0"), (0.0, "0.0")])
def test_changes_carry_a_sign_unless_they_round_to_zero(value, text):
    assert numbers.signed(value) == text


@pytest.mark.parametrize(("variant", "expected"), [("3 min", 3), ("0.2 min", 0.2), ("es+it", 2), ("a+b+c", 3), ("", 1)])
def test_the_number_of_a_variant(variant, expected):
    assert series.number(variant) == expected


def test_scores_of_one_language_leave_out_subsets_without_it(made):
    found = series.scores(made["figure3"].rows, language="ca")
    assert found["variant"].str.contains("ca").all() and found["variant"].nunique() == 15


def test_a_missing_row_is_named(made):
    rows = made["figure4"].rows
    own = (rows["system"] == "Finetuned") & (rows["variant"] == "6 min") & (rows["task"] == "st")
    gap = rows[~(own & (rows["language"] == "macro"))]
    with pytest.raises(StudyError, match=r"lacks 1 of 195 rows of seed 0, the first of Finetuned 6 min st macro"):
        series.scores(gap)


def test_a_gain_is_the_difference_turned_round(made, gains):
    paired = made["figure3"].paired
    ours = gains[(gains["system"] == "LoRS-Merging") & (gains["variant"] == "ca+es")].iloc[0]
    theirs = paired[(paired["system"] == "LoRS-Merging") & (paired["variant"] == "ca+es")]
    theirs = theirs[theirs["against"] == "Pretrained"].iloc[0]
    assert np.allclose(
        ours[["value", "low", "high"]].astype(float),
        -100 * theirs[["difference", "ci_high", "ci_low"]].astype(float),
    )
    assert list(gains["system"].unique()) == ["Finetuned", "Weight Averaging", "Task Arithmetic", "LoRS-Merging"]


def test_gains_average_over_the_subsets_of_a_size_and_can_be_narrowed(made, gains):
    mean = series.averaged(gains).set_index(["system", "x"])
    assert mean.loc["Task Arithmetic"]["subsets"].to_dict() == {2: 10, 3: 10, 4: 5, 5: 1}
    own = gains[(gains["system"] == "Finetuned") & (gains["x"] == 2)]
    assert mean.loc[("Finetuned", 2), "value"] == pytest.approx(own["value"].mean())
    few = series.gains(made["figure3"].frame, series.methods(made["figure3"].rows), languages=["es", "it", "fr"])
    assert set(few["variant"]) == {"es+fr", "es+it", "fr+it", "es+fr+it"}


def test_nothing_to_compare_is_an_error(made):
    with pytest.raises(StudyError, match="no system was compared with 'Nobody'"):
        results.differences(made["figure3"].frame, "Nobody")


def test_a_sweep_has_a_panel_each_and_level_lines(made):
    table = series.swept(series.scores(made["figure5"].rows))
    panels = ["MP, 3 min", "MP, 6 min", "MP, 12 min", "SVP, 3 min", "SVP, 6 min", "SVP, 12 min"]
    assert list(table["panel"].unique()) == panels
    own = table[table["panel"] == "MP, 6 min"]
    assert list(own[own["system"] == "MP"]["x"]) == [5, 10, 20, 40, 80]
    assert set(own[own["x"].isna()]["system"]) == {"Pretrained", "Finetuned"}


def test_what_a_sweep_allows_to_drop():
    shares = {0.05: (1, 2), 0.1: (-1, 1), 0.2: (0.5, 2), 0.4: (-2, 1), 0.8: (-1, 1)}
    found = pd.DataFrame([(f"MP density={s}", sum(e) / 2, *e) for s, e in shares.items()])
    found.columns = ["system", "value", "low", "high"]
    assert series.harmless(found, "MP") == "40 %"  # 10 % may be luck: 20 % is reliably worse
    assert series.best(found, "MP") == "−0.5 points (−2.0 to +1.0) at 40 %"
    assert series.harmless(found.assign(low=0.1), "MP") == "none of the shares tried"


def test_a_tally_counts_intervals_on_either_side_of_zero():
    found = pd.DataFrame({"system": "A", "variant": ["a+b", "a+c", "b+c", "a+b+c"]})
    found = found.assign(low=[-2, -1, 1, -2], high=[-1, 1, 2, 2])
    assert series.tally(found, "A").to_numpy().tolist() == [[1, 1, 1], [0, 1, 0]]


def test_the_matrix_has_every_expert_in_every_language(matrix, made):
    codes = ["ca", "es", "fr", "it", "ru"]
    assert list(zip(matrix["row"], matrix["column"], strict=True)) == [(a, b) for a in codes for b in codes]
    rows = made["interference"].rows
    before = rows[(rows["system"] == "Pretrained") & (rows["language"] == "es")]["wer"].item()
    assert matrix[matrix["column"] == "es"]["before"].unique() == pytest.approx([100 * before])
    found = made["interference"].frame
    joint = found[found["system"] == results.differences(found, "Pretrained")["system"].iloc[0]]
    more = pd.concat([found, joint.assign(system="Joint training")])
    assert transfer.matrix(more, rows, "Pretrained").equals(matrix)


def test_pairs_average_both_directions_relative_to_the_errors_before():
    table = pd.DataFrame([("a", "b", -4.0, 40.0), ("b", "a", 2.0, 20.0)], columns=["row", "column", "value", "before"])
    [pair] = transfer.pairs(
        table.assign(low=table["value"] - 1, high=table["value"] + 1),
        pd.DataFrame([("a", "b", 0.3)], columns=["a", "b", "cosine"]),
    ).itertuples()
    assert (pair.label, pair.x) == ("a–b", 0.3)
    assert (pair.value, pair.low, pair.high) == pytest.approx((0, -3.75, 3.75))


def test_labels_of_ticks_do_not_run_into_each_other():
    values = [0.15, 0.2, 0.25, 0.3, 0.4, 0.45, 0.849056, 1.155009, 1.162735, 2.5]
    table = pd.DataFrame({"panel": "", "system": "TIES", "method": "ties", "x": values})
    table = table.assign(value=1.0, low=float("nan"), high=float("nan"))
    [axes] = curves.lines(table, x="λ", y="WER", caption="One line.", logarithmic=True).fig.axes
    axes.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes)) and len(boxes) > 3


def test_names_of_neighbours_lie_on_no_point_and_on_no_other_name():
    points = pd.DataFrame({"label": ["first", "second", "third"], "x": [1.0, 1.01, 2.0], "value": [0.0, 0.1, 5.0]})
    figure = curves.relation(
        points.assign(low=points["value"], high=points["value"]), x="x", y="y", caption="Three points."
    )
    [axes] = figure.fig.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    dots = axes.transData.transform(points[["x", "value"]])
    assert [text.get_text() for text in axes.texts] == list(points["label"])
    for i, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:i] + boxes[i + 1 :]) == box.count_contains(dots) == 0
    assert all(box.x1 <= axes.bbox.x1 for box in boxes)


def test_rank_correlation_sees_order_only_and_its_interval_is_wide_for_noise():
    x = np.arange(10.0)
    assert transfer.rank_correlation(x, np.exp(x)) == (1.0, 1.0, 1.0)
    value, low, high = transfer.rank_correlation(x, np.random.default_rng(1).normal(size=10))
    assert low < 0 < high and low < value < high and high - low > 0.8
    ties = np.array([3, 1, 2, 2, 5, 4, 4, 6, 9, 7.0])  # of ranks 4, 1, 2.5, 2.5, 7, 5.5, 5.5, 8, 10, 9
    assert transfer.rank_correlation(x, ties)[0] == pytest.approx(71.5 / math.sqrt(82.5 * 81.5))
    assert np.isnan(transfer.rank_correlation(x[:3], x[:3])).all()


def test_costs_count_trainings_merges_and_choices_once(made):
    spent = costs.of_systems(outcomes.measured(made["table1"].rows))
    assert spent["trainings"].to_dict() | {"Finetuned": 5, "Multi-lingual training": 1} == spent["trainings"].to_dict()
    assert spent.loc["LoRS-Merging", "windows"] == 5 * 30 and spent.loc["Pretrained", "windows"] == 0
    settings = experiments.profiles()["speech"]
    scaling, density, rank = (len(settings.grids[name]) for name in ("scaling", "density", "rank_ratio"))
    assert spent.loc["Task Arithmetic", "clips"] == scaling * 5 * settings.dev_clips
    assert spent.loc["LoRS-Merging", "clips"] == (scaling + density + rank) * 5 * settings.dev_clips
    assert spent.loc["Weight Averaging", ["clips", "scaling", "pruning"]].tolist() == [0, 0, 0]
    pace = 1.0 / 20  # seconds a clip, in made-up rows
    assert spent.loc["Task Arithmetic", "scaling"] == pytest.approx(scaling * (5 * settings.dev_clips * pace + 0.5))


def test_a_search_by_loss_hears_every_candidate_and_decodes_the_best():
    plan = experiments.plan("table1", "tiny")
    rows = pd.DataFrame(made_up_rows(plan))
    spent = costs.of_systems(outcomes.measured(rows[rows["seed"] == 0])).loc["Task Arithmetic"]
    clips = plan.settings.here.test_clips
    assert spent["clips"] == 2 * 5 * clips  # the two best
    hearing = 12 * 5 * estimates.windows(clips) * (10.0 / 30) / estimates.FORWARD  # windows, seconds of one in training
    assert spent["scaling"] == pytest.approx(2 * 5 * clips / 20 + hearing + 12 * 0.5)


def test_one_language_more_costs_joint_training_of_all_or_one_expert():
    numbers = {"languages": 5, "windows": 100, "training": 50.0, "merging": 1.0, "pruning": 5.0, "scaling": 10.0}
    spent = pd.DataFrame(
        [numbers | {"merging": 0.0, "pruning": 0.0, "scaling": 0.0}, numbers], index=["joint", "merge"]
    )
    spent["method"] = ["joint training", "lors"]
    more = costs.one_more(spent, "joint", ["merge"])
    assert more.loc["joint"].to_dict() == pytest.approx(
        {"windows": 120, "training": 60, "merging": 0, "pruning": 0, "scaling": 0, "total": 60}
    )
    assert more.loc["merge"].to_dict() == pytest.approx(
        {"windows": 20, "training": 10, "merging": 1.2, "pruning": 1, "scaling": 12, "total": 24.2}
    )
    growth = costs.growth(spent, "joint", ["merge"], 3).set_index(["system", "x"])["value"]
    assert growth["joint", 3] == pytest.approx(10 * (2 + 3) / 60)
    assert growth["merge", 3] == pytest.approx((11 * 3 + 2.2 * (2 + 3)) / 60)


def test_rows_without_merge_seconds_are_refused(made):
    rows = outcomes.measured(made["table1"].rows)
    with pytest.raises(StudyError, match="do not say how long merging took; collect them again"):
        costs.of_systems(rows.assign(merge_seconds=None))


def counts(errors):
    n = len(errors)
    ids, words = tuple(f"clip{i}" for i in range(n)), np.full(n, 4)
    return Counts(ids, np.array(errors), words, 0, 0, 0, 0, 1, runaway=0, empty_references=0)


def test_changes_are_paired_in_each_language_and_in_both_groups():
    plan = experiments.plan("retention", "speech")
    scores = [
        {
            cell: counts([3, 2, 1, 2] if s.system == "Pretrained" else [2, i % 2, 1, 2])
            for i, cell in enumerate(s.decodes)
        }
        for s in plan.systems
    ]
    rows = comparisons.by_language(plan, scores)
    assert {row["system"] for row in rows} == {s.system for s in plan.systems} - {"Pretrained"}
    own = {row["language"]: row for row in rows if row["system"] == "Task Arithmetic"}
    assert set(own) == {"ca", "es", "fr", "it", "ru", "bg", "cs", "el", "nl", "ro", "pooled", "others"}
    assert own["ca"]["difference"] == pytest.approx(-3 / 16) and own["es"]["difference"] == pytest.approx(-2 / 16)
    assert own["pooled"]["difference"] == pytest.approx(-(3 * 3 + 2 * 2) / (5 * 16))
    found = dict(zip([s.system for s in plan.systems], scores, strict=True))
    others = [list(found[name].values())[5:] for name in ("Task Arithmetic", "Pretrained")]
    assert own["others"]["ci_low"] == compare(*others).ci_low


def test_later_seeds_are_compared_with_the_pretrained_model_of_the_first():
    plan = experiments.plan("interference", "speech", [0, 1])
    scores = [{cell: counts([1, 2, 3]) for cell in system.decodes} for system in plan.systems]
    rows = comparisons.by_language(plan, scores)
    assert {row["seed"] for row in rows} == {0, 1} and {row["against"] for row in rows} == {"Pretrained"}


def test_without_a_system_to_compare_with_there_are_no_changes():
    plan = experiments.plan("table1", "speech", [0])
    assert comparisons.by_language(plan, [{} for _ in plan.systems]) == []
