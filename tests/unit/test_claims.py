"""Verdicts follow from intervals: every kind of test on rows whose answer is known, and on rows that are not there."""

import shutil

import pandas as pd
import pytest
from made_up import STAMP, made_up_rows

from speechbook import claims
from speechbook.claims import TESTS, curves, measures
from speechbook.claims.parts import EQUIVALENT, FAILS, HOLDS, NOT_RUN, NOT_TESTABLE, OPEN, Part, lines, signed, verdict
from speechbook.claims.results import NotTestableError, Results, student
from speechbook.study import experiments, store, table_files
from speechmerge.errors import StudyError

NUMBERS = {"ca": -0.02, "es": -0.01, "fr": 0.0, "it": 0.01, "ru": 0.02, "nl": 0.01, "cs": -0.02}


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))


def rows(experiment, score):
    """Write rows of an experiment; ``score(row)`` is a word error rate as a fraction, or BLEU."""
    made = made_up_rows(experiments.plan(experiment, "speech", [0]))
    for row in made:
        row["bleu" if row["task"] == "st" else "wer"] = score(row)
    store.append_rows("speech", made)


def paired(experiment, *found):
    """Write paired differences ``(system, against, task, difference, half width[, seed[, variant]])``, as fractions."""
    lines = []
    for system, against, task, difference, half, *more in found:
        seed, variant = (*more, 0, "")[:2] if len(more) < 2 else more
        place = {"system": system, "against": against, "task": task, "variant": variant, "seed": seed}
        ends = {"ci_low": difference - half, "ci_high": difference + half, "p_value": 0.5}
        lines.append(place | {"difference": difference} | ends | STAMP)
    store.write_statistics("speech", f"{experiment}.paired", lines)


def answer(claim):
    [line] = claims.verdicts("speech", [claim]).to_dict("records")
    return line["verdict"], line["measured"]


@pytest.mark.parametrize(
    ("claimed", "bound", "low", "high", "outcome"),
    [
        ("below", 0, -2, -1, 1), ("below", 0, 1, 2, -1), ("below", 0, -1, 1, 0), ("below", 0, -1, 0, 0),
        ("above", 0, 1, 2, 1), ("above", 0, -2, -1, -1), ("above", 10, 4, 9, -1), ("above", 10, 9, 12, 0),
        ("within", 1, -0.5, 0.9, 1), ("within", 1, 0.2, 0.9, 1), ("within", 1, 0.5, 1.5, 0),
        ("within", 1, 1.1, 2, -1), ("within", 1, -3, -1.1, -1),
    ],
)  # fmt: skip
def test_an_interval_decides_only_where_it_leaves_the_bound_out(claimed, bound, low, high, outcome):
    part = Part("x", (low + high) / 2, low, high, "WER", claimed, bound)
    assert part.outcome == outcome
    assert (part.favour > 0) == (outcome == 1)


def test_a_conjunction_needs_all_and_falls_by_one():
    good, bad, unclear = (Part("x", v, v - 1, v + 1, "WER", "above") for v in (2, -2, 0))
    assert verdict([good, good]) == HOLDS
    assert verdict([good, unclear]) == OPEN
    assert verdict([good, unclear, bad]) == FAILS


def test_parts_without_a_difference_that_counts_are_a_verdict_of_their_own():
    good, bad, unclear = (Part("x", v, v - 1, v + 1, "WER", "above") for v in (2, -2, 0))
    same = Part("x", 0.3, 0.1, 0.5, "WER", "above", same=True)
    assert str(same).startswith("≈ x: +0.30 WER")
    assert verdict([good, same]) == verdict([same]) == EQUIVALENT
    assert verdict([same, unclear]) == OPEN
    assert verdict([same, bad]) == FAILS


def measured_again():
    """L4 by the protocol, where it holds, and before it, where it does not."""
    rows("table1", lambda row: 0.3)
    paired("table1", ("Task Arithmetic", "Weight Averaging", "asr", 0.03, 0.01))
    place = {"task": "asr", "metric": "capped_wer", "group": "own cells", "variant": "", "wide_low": None}
    place |= {"wide_high": None, "seeds": [0, 1, 2]} | STAMP
    scores, pairs = [], []
    for clips, difference, said in (("all", -0.02, HOLDS), ("novel", 0.001, EQUIVALENT)):
        ends = {"clips": clips, "ci_low": difference - 0.001, "ci_high": difference + 0.001}
        pair = {"system": "Task Arithmetic", "against": "Weight Averaging", "difference": difference, "verdict": said}
        pairs.append(place | ends | pair)
        scores += [
            place | ends | {"system": pair[name], "value": 0.3, "method": "ties"} for name in ("system", "against")
        ]
    store.write_statistics("tiny", "table1.measures", scores)
    store.write_statistics("tiny", "table1.comparisons", pairs)


def test_claims_measured_again_stand_beside_their_old_verdicts():
    measured_again()
    shown = claims.changes("speech", "tiny").frame.to_dict("records")
    assert [line["place"].partition("\n")[0] for line in shown] == ["L4"]
    assert shown[0]["before"] == FAILS
    assert shown[0]["now, on all clips"].startswith(f"{HOLDS}\n✓ Task Arithmetic − Weight Averaging: −2.00 WER")
    assert shown[0]["on novel clips"].startswith(f"{EQUIVALENT}\n≈ Task Arithmetic − Weight Averaging: +0.10 WER")


def test_older_rows_stand_in_for_what_was_not_measured_again():
    measured_again()
    rows("table2", lambda row: 0.3)
    paired("table1", ("LoRS-Merging", "Finetuned", "asr", 0.03, 0.01))
    asked = "L3", "L4", "L6"
    now, found = claims.verdicts("tiny", asked), claims.verdicts("tiny", asked, before="speech")
    assert list(now["verdict"]) == [NOT_RUN, HOLDS, NOT_RUN] and not now["older"].any()
    assert list(found["verdict"]) == [FAILS, HOLDS, NOT_RUN] and list(found["older"]) == [True, False, False]
    shown = claims.table(found).frame["verdict"]
    assert list(shown) == [f"{FAILS}\n(older measurement)", HOLDS, NOT_RUN]
    assert claims.counted(found).endswith(" 1 of these verdicts rests on an older measurement.")


def test_many_parts_are_counted_and_the_hardest_shown():
    parts = [Part(f"number {v}", v, v - 1, v + 1, "WER", "above") for v in (5, 4, 0, -3, 6, 7, 8)]
    told = lines(parts)
    assert told[0] == "7 comparisons: 5 for the claim, 1 against it, 1 undecided; the least favourable:"
    assert told[1:] == ["✗ number -3: −3.0 WER (−4.0 to −2.0)"]


def test_zero_has_no_sign():
    assert [signed(x) for x in (-0.04, 0.04, -0.06, 1)] == ["0.0", "0.0", "−0.1", "+1.0"]


@pytest.mark.parametrize(("n", "level", "quantile"), [(2, 0.05, 12.706), (5, 0.05, 2.776), (5, 0.01, 4.604)])
def test_intervals_over_a_few_languages_are_students(n, level, quantile):
    values = [1.0, 2.0, 4.0, 3.0, 7.0][:n]
    mean, low, high = student(values, level)
    error = pd.Series(values).sem()
    assert (high - mean) / error == pytest.approx(quantile, abs=2e-3) == (mean - low) / error
    with pytest.raises(NotTestableError):
        student([1.0])


@pytest.mark.parametrize(("difference", "expected"), [(-0.03, HOLDS), (0.03, FAILS), (0.005, OPEN)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_paired_difference_gives_its_verdict_whichever_was_subtracted(difference, expected, turned):
    rows("table1", lambda row: 0.3)
    pair = ("Weight Averaging", "Task Arithmetic") if turned else ("Task Arithmetic", "Weight Averaging")
    paired("table1", (*pair, "asr", -difference if turned else difference, 0.01))
    found, told = answer("L4")
    assert found == expected
    assert told[2:].startswith(f"Task Arithmetic − Weight Averaging: {signed(100 * difference)} WER (")
    assert told.endswith("; 30.0 and 30.0")


def test_the_first_seed_decides_and_the_others_are_told():
    rows("table1", lambda row: 0.3)
    pair = ("Task Arithmetic", "Weight Averaging", "asr")
    paired("table1", (*pair, 0.01, 0.02, 2), (*pair, -0.03, 0.01, 0), (*pair, -0.001, 0.02, 1))
    found, told = answer("L4")
    assert found == HOLDS and told.endswith("; 1 of 2 other seeds agree")


def test_a_higher_bleu_is_better_and_one_part_can_refute():
    rows("table3", lambda row: 26.0 if row["task"] == "st" else 0.3)
    pair = ("LoRS-Merging", "Finetuned")
    paired("table3", (*pair, "asr", -0.03, 0.01), (*pair, "st", 0.02, 0.01))
    assert answer("L8")[0] == HOLDS
    paired("table3", (*pair, "asr", -0.03, 0.01), (*pair, "st", -0.02, 0.01))
    assert answer("L8")[0] == FAILS
    assert answer("L9")[0] == HOLDS  # 10 % fewer errors against 8 % less BLEU


@pytest.mark.parametrize(
    ("difference", "half", "expected"), [(0.004, 0.003, HOLDS), (0.004, 0.02, OPEN), (0.03, 0.01, FAILS)]
)
def test_equal_means_within_the_margin(difference, half, expected):
    rows("table4", lambda row: 25.0 if row["task"] == "st" else 0.3)  # margins 1.0 BLEU and 1.2 WER
    pair = ("ML and MT training", "Pretrained")
    paired("table4", (*pair, "asr", difference, half), (*pair, "st", 0.0, 0.002))
    assert answer("L11")[0] == expected


@pytest.mark.parametrize(("difference", "expected"), [(-0.06, HOLDS), (-0.01, FAILS), (-0.031, OPEN)])
def test_a_relative_gain_is_held_against_the_promised_one(difference, expected):
    rows("table4", lambda row: 0.2 if row["system"] == "MT training + ML LoRS-Merging" else 0.3)
    paired("table4", ("MT training + ML LoRS-Merging", "ML and MT training", "asr", difference, 0.01))
    assert answer("L14")[0] == expected  # of at least 10 % of 30 points


def test_the_best_of_a_table_must_beat_everyone():
    rows("table4", lambda row: 25.0 if row["task"] == "st" else 0.3)
    rivals = [entry.system for entry in experiments.experiments()["table4"].systems]
    rivals = [name for name in rivals if name not in ("ML training + MT LoRS-Merging", "Sequential training")]
    best = [(r, "ML training + MT LoRS-Merging", task, sign * 0.02, 0.01) for r in rivals for task, sign in
            (("asr", 1), ("st", -1))]  # fmt: skip
    paired("table4", *best)
    found, told = answer("L13")
    assert found == HOLDS and told.startswith("20 comparisons: 20 for the claim")
    paired("table4", *best[:-1], (*best[-1][:3], 0.02, 0.01))
    assert answer("L13")[0] == FAILS


@pytest.mark.parametrize(("slope", "expected"), [(0.02, HOLDS), (-0.02, FAILS), (0.0, OPEN)])
def test_a_slope_over_the_number_of_languages(slope, expected):
    def score(row):
        size, own = row["variant"].count("+") + 1, NUMBERS.get(row["language"], 0)
        return 0.3 + slope * size + own + 0.2 * own * size

    rows("figure3", score)
    assert answer("L16")[0] == expected


def test_subsets_of_a_size_are_averaged():
    plan = experiments.plan("figure3", "speech", [0])
    variants = {s.variant for s in plan.systems}
    pair = ("LoRS-Merging", "Task Arithmetic", "asr")
    paired("figure3", *((*pair, -0.03 if "ca" in v else -0.01, 0.005, 0, v) for v in variants))
    parts = curves.paired_by_size(Results("speech"), "figure3", *pair[:2])
    assert [part.what[-11:] for part in parts] == [f"{n} languages" for n in (2, 3, 4, 5)]
    assert [round(part.value, 6) for part in parts] == [-1.8, -2.2, -2.6, -3.0]
    assert answer("L17")[0] == HOLDS


@pytest.mark.parametrize(("last", "expected"), [(0.06, HOLDS), (-0.06, FAILS), (0.0, OPEN)])
def test_one_step_that_harms_is_enough(last, expected):
    def score(row):
        minutes, own = float(row["variant"].split()[0]), NUMBERS.get(row["language"], 0)
        if row["task"] == "st":
            return 20.0 + minutes + 10 * own
        return 0.5 - 0.05 * (minutes >= 6) + (last + 0.3 * own) * (minutes >= 12) + own

    rows("figure4", score)
    assert answer("L18")[0] == expected


@pytest.mark.parametrize(("growth", "expected"), [(0.02, HOLDS), (-0.02, FAILS)])
def test_a_loss_that_grows_with_the_speech(growth, expected):
    def score(row):
        minutes, own = float(row["variant"].split()[0]), NUMBERS.get(row["language"], 0)
        loss = (growth + 0.1 * own) * minutes * (row["system"] != "Finetuned")
        return 30.0 - 100 * loss if row["task"] == "st" else 0.3 + loss

    rows("figure4", score)
    assert answer("L19")[0] == expected


def pruned(best_share, gain):
    """Error rates at which one share kept is better than the whole expert, the more the more speech it heard."""

    def score(row):
        minutes, own = float(row["variant"].split()[0]), NUMBERS.get(row["language"], 0)
        better = row["system"] == best_share
        worse = row["system"] not in (best_share, "Finetuned")
        return 0.4 + own - better * (gain + 0.2 * own) * minutes / 10 + 0.1 * worse

    return score


def test_the_gain_of_pruning_is_that_of_a_share_chosen_on_other_languages():
    rows("figure5", pruned("MP density=0.1", 0.05))
    told = {claim: answer(claim) for claim in ("L20", "L21", "L22")}
    assert told["L20"][0] == FAILS  # by SVP, of which every share here does harm
    assert told["L20"][1].startswith("✓ gain by MP") and "✗ gain by SVP" in told["L20"][1]
    assert told["L21"][1].startswith("✓ gain by MP, a doubling of the speech")
    assert told["L22"][0] == HOLDS


def test_a_share_that_is_best_for_one_language_alone_gains_nothing():
    def score(row):
        lucky = row["system"] == "MP density=0.1" and row["language"] == "es"
        return 0.1 if lucky else {"Finetuned": 0.4, "MP density=0.2": 0.41}.get(row["system"], 0.6)

    rows("figure5", score)
    [part] = curves.pruning(Results("speech"), "figure5", "MP")
    assert part.value == pytest.approx((4 * -2.5 - 2.5) / 5)


def test_what_the_experiment_does_not_hold_is_not_testable():
    found, told = answer("L23")
    assert found == NOT_TESTABLE and told == "figure5 is not run with translation"


@pytest.mark.parametrize(("harm", "expected"), [(0.05, HOLDS), (0.0, OPEN), (-0.05, FAILS)])
def test_interference_needs_a_correlation_and_a_language_that_suffers(harm, expected):
    order = {code: i for i, code in enumerate(["ca", "bg", "es", "cs", "fr", "el", "it", "nl", "ru", "ro"])}

    def score(row):
        place = order.get(row["language"], 0)
        return {"Pretrained": 0.5, "Finetuned": 0.48 - 0.01 * place}.get(row["system"], 0.5 - 0.005 * place)

    for table, cells in (("table1", ("ca", "es")), ("table7", ("bg", "nl"))):
        rows(table, score)
        place = {"system": "Multi-lingual training", "against": "Pretrained", "task": "asr", "variant": "", "seed": 0}
        changes = [(cells[0], harm), (cells[1], -0.1), ("pooled", 0.5)]
        store.write_statistics(
            "speech", f"{table}.by_language",
            [place | {"language": c, "difference": d, "ci_low": d - 0.02, "ci_high": d + 0.02} for c, d in changes],
        )  # fmt: skip
    found, told = answer("L7")
    assert told.startswith("✓ gains of Finetuned and Multi-lingual training in 10 languages: +1.00")
    assert "worst of 4 languages (ca)" in told
    assert found == expected


def test_a_correlation_of_what_does_not_vary_is_not_testable():
    for table in ("table1", "table7"):
        rows(table, lambda row: 0.3)
    assert answer("L7")[0] == NOT_TESTABLE


def groups(experiment, averages, differences):
    """Write averages ``(system, group): rate`` and paired differences ``(system, against, group): (value, half)``."""
    place = {"variant": "", "seed": 0}
    lines = [
        place | {"kind": "average", "system": s, "against": None, "group": g, "wer": rate, "ci_low": 0, "ci_high": 1}
        for (s, g), rate in averages.items()
    ]
    lines += [
        place | {"kind": "paired", "system": s, "against": a, "group": g, "difference": d}
        | {"ci_low": d - half, "ci_high": d + half}
        for (s, a, g), (d, half) in differences.items()
    ]  # fmt: skip
    store.write_statistics("speech", f"{experiment}.groups", lines)


@pytest.mark.parametrize(("half", "expected"), [(0.001, HOLDS), (0.05, OPEN)])
def test_systems_are_compared_on_groups_of_domains(half, expected):
    pair = ("BoostedTSV-M", "Full-FT")
    groups("domains", {(name, "full average"): 0.12 for name in pair}, {(*pair, "full average"): (-0.01, half)})
    found, told = answer("B6")
    assert found == expected
    assert told.startswith(("✓", "○")) and "BoostedTSV-M − Full-FT, full average: −1.0" in told
    assert told.endswith("; 12.0 and 12.0")


@pytest.mark.parametrize(("difference", "expected"), [(-0.02, HOLDS), (-0.011, OPEN), (-0.004, FAILS)])
def test_a_promised_number_of_points_must_be_reached(difference, expected):
    pair = ("Learned average", "Model Soups")
    averages = {(name, "trained languages"): 0.4 for name in pair}
    groups("every_method", averages, {(*pair, "trained languages"): (difference, 0.003)})
    found, told = answer("G1")
    assert found == expected and told.endswith("; 40.0 and 40.0; at least 1 claimed")


@pytest.mark.parametrize(
    ("difference", "expected", "mark", "gain"),
    [(0.016, HOLDS, "✓", "+4.0"), (0.009, OPEN, "○", "+2.25"), (-0.01, FAILS, "✗", "−2.5")],
)
def test_a_promised_gain_on_a_group_is_relative(difference, expected, mark, gain):
    pair = ("Model Soups", "Fisher")  # the other way round: a positive difference is a gain of Fisher
    place = "trained languages"
    groups("every_method", {("Model Soups", place): 0.4}, {(*pair, place): (difference, 0.002)})
    found, told = answer("G2")
    assert found == expected and told.startswith(f"{mark} gain of Fisher over Model Soups, {place}: {gain} %")


def test_the_best_of_a_family_must_beat_every_merge_of_the_others():
    wers = dict(zip(claims.SUBSPACE, (0.14, 0.13, 0.12, 0.15, 0.16), strict=True))
    rivals = [*claims.WEIGHTS, *claims.VECTORS]
    averages = {(name, "in domain"): wer for name, wer in (wers | dict.fromkeys(rivals, 0.2)).items()}
    better = {("BoostedTSV-M", rival, "in domain"): (-0.08, 0.01) for rival in rivals}
    groups("domains", averages, better)
    assert answer("B2")[0] == HOLDS
    groups("domains", averages, better | {("BoostedTSV-M", "Karcher", "in domain"): (0.03, 0.01)})
    assert answer("B2")[0] == FAILS


def test_the_ends_of_a_sweep_are_compared():
    names = ["Procrustes rank_ratio=0.5", "Procrustes rank_ratio=0.8", "Newton-Schulz rank_ratio=0.5"]
    names.append("Newton-Schulz rank_ratio=0.8")
    averages = {(name, "in domain"): 0.2 for name in names}
    pairs = {(names[1], names[0], "in domain"): (0.1, 0.01), (names[3], names[2], "in domain"): (0.002, 0.004)}
    groups("rank", averages, pairs)
    found, told = answer("B9")
    assert found == HOLDS and told.count("✓") == 2


def test_what_was_not_measured_is_not_run():
    assert answer("L4") == (NOT_RUN, "table1 has no rows")
    rows("table1", lambda row: 0.3)
    paired("table1", ("LoRS-Merging", "Task Arithmetic", "asr", -0.03, 0.01))
    found, told = answer("L2")
    assert found == NOT_RUN and "no paired comparison of LoRS-Merging and Weight Averaging" in told
    assert answer("B1")[0] == NOT_RUN and answer("G4")[0] == answer("F4")[0] == NOT_TESTABLE
    assert answer("F1") == (NOT_RUN, "fusion_layers has no rows")


def test_every_claim_has_a_test_or_a_reason():
    known = pd.read_csv(store.project_root() / "experiments" / "published" / "claims.csv")["id"]
    assert set(TESTS) <= set(known)
    assert {name[0] for name in known if name not in TESTS} <= set(claims.ABSENT)


def test_every_comparison_a_claim_needs_is_made_by_its_experiment():
    described = experiments.experiments()
    for test, experiment, *rest in (test for tests in TESTS.values() for test in tests):
        if test is measures.paired or test is curves.paired_by_size:
            assert {entry.system for entry in described[experiment].systems} >= set(rest[:2])
            assert set(rest[:2]) & set(described[experiment].against), (experiment, rest[:2])
            assert set(rest[4:5]) <= set(described[experiment].groups)
        if test is measures.worse_somewhere:
            assert all(described[table].by_language == rest[1] for table in experiment)


def test_every_claim_of_both_studies_is_decided_once_rows_are_there(made_up_results):
    found = claims.verdicts("speech", ["L", "B", "G"]).set_index("id")["verdict"]
    assert len(found) == 37 and NOT_RUN not in set(found)
    assert list(found.index[found == NOT_TESTABLE]) == ["L23", "G4"]


def test_nothing_is_a_percentage_of_a_score_of_zero(made_up_results, tmp_path, monkeypatch):
    zeros = shutil.copytree(made_up_results, tmp_path / "zeros")
    for file in zeros.rglob("*.parquet"):
        scores = {"wer", "bleu"}
        rows = [{k: 0.0 if k in scores and v is not None else v for k, v in x.items()} for x in table_files.read(file)]
        table_files.write(file, rows)
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(zeros))
    found = claims.verdicts("speech", ["L", "B", "G"]).set_index("id")["verdict"]
    assert set(found[["L9", "L14", "L15", "G2"]]) == {NOT_TESTABLE}


def test_the_table_and_its_summary():
    rows("table1", lambda row: 0.3)
    paired("table1", ("Task Arithmetic", "Weight Averaging", "asr", -0.03, 0.01))
    shown = claims.table(claims.verdicts("speech", ["L4", "L2"]))  # with a heading, three lines
    page = shown._repr_html_()
    assert list(shown.frame["place"]) == ["L4\nTable 1", "L2\nTable 1"]
    assert (
        page.count('class="verdict"') == 2
        and '<div class="verdict">not run here</div>' in page
        and page.count("<tr") == 3
    )
    assert claims.counted(claims.verdicts("speech", ["L4", "L2", "G"])) == (
        "Of 6 claims 1 holds, 1 is not testable here and 4 are not run here."
    )
    assert claims.counted(claims.verdicts("speech", ["L4"])) == "Of 1 claim 1 holds."
    with pytest.raises(StudyError, match="there is no claim 'L99'"):
        claims.verdicts("speech", ["L99"])
