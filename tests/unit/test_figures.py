"""Figures draw every number they are given, describe themselves, and come out the same twice."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from made_up import made_up_rows, made_up_task_vectors
from matplotlib.colors import to_rgb

from speechbook.claims import parts
from speechbook.figures import figured, overviews, plots, style
from speechbook.study import experiments
from speechbook.tables import leaders, outcomes, vector_tables
from speechmerge.dynamic import systems
from speechmerge.errors import BookError
from speechmerge.merging import methods

TILES = pd.DataFrame({"group": ["a", "a", "b"], "case": ["A1", "A2", "B1"]})
TILES["outcome"] = [parts.HOLDS, parts.FAILS, parts.OPEN]
MARKS = pd.DataFrame({"panel": ["time", "memory"] * 2, "value": [0.5, 0.1, 2, 1]})
MARKS["label"] = ["ties", "ties", "lors", "lors"]
MEANS = pd.DataFrame({"system": ["Best", "Near", "Far", "Expert"], "method": ["ties", "lors", "ties", "fine-tuning"]})
MEANS = MEANS.assign(place="in domain", value=[20.0, 20.5, 25.0, 10.0], high=[21.0, 21.5, 26.0, 11.0])


@pytest.fixture(scope="module")
def rows():
    return outcomes.measured(pd.DataFrame(made_up_rows(experiments.plan("table1", "speech", [0]))))


@pytest.fixture(scope="module")
def two_tasks():
    return outcomes.measured(pd.DataFrame(made_up_rows(experiments.plan("table4", "smoke"))))


@pytest.fixture(scope="module")
def statistics():
    return {kind: found for kind, found in pd.DataFrame(made_up_task_vectors("speech")).groupby("kind")}


@pytest.fixture(scope="module")
def every_figure(rows, two_tasks, statistics):
    cosines = statistics["cosine"]
    return {
        "systems": plots.systems(rows),
        "published": plots.systems(rows, outcomes.published("table1")),
        "languages": plots.languages(rows),
        "two tasks": plots.systems(two_tasks, outcomes.published("table4")),
        "languages in two tasks": plots.languages(two_tasks),
        "cosines": plots.cosines(cosines[cosines["scope"] == "model"]),
        "norms": plots.norms(vector_tables.by_layer(statistics["norm"])),
        "spectra": plots.spectra(*vector_tables.spectra(statistics["spectrum"])),
        "tiles": overviews.tiles(TILES, looks=parts.LOOKS, caption="Verdicts."),
        "rivals": overviews.rivals(leaders.distances(MEANS), unit="points", caption="Distances."),
        "marks": overviews.marks(MARKS, unit="ratio", caption="Ratios.", reference=1.0, logarithmic=True),
    }


def test_every_figure_is_described_and_saved_with_its_numbers(every_figure, tmp_path):
    for name, figure in every_figure.items():
        assert len(figure.alt) > 80 and figure.caption.endswith(".")
        assert figure.save(tmp_path, name) == tmp_path / f"{name}.svg"
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(figure.data)
    assert len(list(tmp_path.iterdir())) == 3 * len(every_figure)


def test_saving_again_writes_the_same_bytes(every_figure, tmp_path):
    figure = every_figure["published"]
    first = figure.save(tmp_path / "a", "x").read_bytes()
    assert figure.save(tmp_path / "b", "x").read_bytes() == first
    assert b"<dc:date>" not in first


def dots(axes):
    return [(x.get_xdata()[0], x.get_ydata()[0]) for x in axes.lines if x.get_marker() in style.MARKERS.values()]


def test_systems_show_each_rate_where_it_belongs(rows):
    figure = plots.systems(rows)
    axes = figure.fig.axes[0]
    pooled = rows[rows["language"] == "pooled"]["wer"].to_numpy()
    drawn = sorted(dots(axes), key=lambda point: point[1])
    assert np.allclose(drawn, [(100 * w, i) for i, w in enumerate(pooled)])
    assert [label.get_text() for label in axes.get_yticklabels()] == list(rows["system"].unique())
    for wer in pooled:
        assert f" {100 * wer:.1f} (" in figure.alt


def test_two_tasks_have_a_line_of_panels_each(two_tasks):
    figure = plots.systems(two_tasks, outcomes.published("table4"))
    labels = [axes.get_xlabel() for axes in figure.fig.axes]
    assert labels == ["word error rate, %, less is better", "word error rate, %", "BLEU, more is better", "BLEU"]
    bleu = two_tasks[(two_tasks["task"] == "st") & (two_tasks["language"] == "macro")]["bleu"]
    assert np.allclose([x for x, _ in dots(figure.fig.axes[2])], bleu)
    assert (26.38, 10) in dots(figure.fig.axes[3])
    assert "nan" not in figure.alt, "sequential training has no published value"


def test_languages_have_a_panel_each_and_no_averages(rows, two_tasks):
    names = ["Catalan", "Spanish", "French", "Italian", "Russian"]
    for table, expected in ((rows, names), (two_tasks, 2 * ["Spanish", "Italian"])):
        titles = [axes.get_title(loc="left") for axes in plots.languages(table).fig.axes]
        assert [title for title in titles if title] == expected


def test_the_best_system_of_a_language_has_few_errors_or_a_high_bleu(two_tasks):
    own = two_tasks[two_tasks["language"] == "es"].set_index("system")
    fewest = own[own["task"] == "asr"]["value"]
    highest = own[own["task"] == "st"]["value"]
    alt = plots.languages(two_tasks).alt
    assert f"Spanish, word error rate, %: {fewest.idxmin()} {fewest.min():.1f};" in alt
    assert f"Spanish, BLEU: {highest.idxmax()} {highest.max():.1f};" in alt


def test_the_cosine_map_is_symmetric_and_names_the_extremes():
    pairs = pd.DataFrame([("es", "it", 0.3), ("es", "ru", 0.1), ("it", "ru", 0.2)], columns=["a", "b", "cosine"])
    figure = plots.cosines(pairs)
    values = figure.fig.axes[0].collections[0].get_array().filled(np.nan)
    assert np.allclose(values, values.T, equal_nan=True)
    assert values[0, 1] == 0.3
    assert "highest: Spanish and Italian 0.30, lowest: Spanish and Russian 0.10" in figure.alt


@pytest.mark.parametrize(("alt", "caption"), [("", "A caption."), ("too short", "A caption."), ("x" * 80, "")])
def test_a_figure_without_description_is_refused(alt, caption):
    with pytest.raises(BookError, match="both must say what it shows"):
        figured.Figured(None, caption, alt, pd.DataFrame({"x": [1]}))


def test_a_figure_without_data_is_refused():
    with pytest.raises(BookError, match="has no data"):
        figured.Figured(None, "A caption.", "x" * 80, pd.DataFrame())


def test_the_alt_text_is_escaped(rows):
    figure = plots.systems(rows)
    page = figured.Figured(
        figure.fig, figure.caption, 'a "quoted" text & <tags> that is long enough to pass', figure.data
    )
    assert 'aria-label="a &quot;quoted&quot; text &amp; &lt;tags&gt; that' in page._repr_html_()


def test_a_mark_says_its_numbers_to_whoever_points_at_it(rows):
    figure, lines = plots.systems(rows), rows[rows["language"] == "pooled"]
    page = BeautifulSoup(figure._repr_html_(), "html.parser")
    told = [title.get_text() for title in page.select("use > title")]
    assert told == [f"{r.system}: {r.value:.1f} ({r.low:.1f} to {r.high:.1f})" for r in lines.itertuples()]
    assert b"<title>" not in figure.svg


def test_drawings_on_one_page_share_no_names(rows):
    pages = [BeautifulSoup(draw(rows)._repr_html_(), "html.parser") for draw in (plots.systems, plots.languages)]
    names = [{tag["id"] for tag in page.find_all(id=True)} for page in pages]
    assert names[0] and not names[0] & names[1]
    for page, own in zip(pages, names, strict=True):
        used = {tag["xlink:href"].removeprefix("#") for tag in page.find_all("use")}
        assert used and used <= own


def test_every_family_has_its_own_colour_marker_and_label():
    families = set(methods.FAMILIES) | set(style.TRAINED.values())
    assert families <= set(style.COLOURS) == set(style.MARKERS) == set(style.LABELS)
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)
    assert len(set(style.MARKERS.values())) == len(style.MARKERS)
    assert style.family("joint training") == "joint" and style.family("lors") == "lowrank"
    assert {style.family(system) for system in systems.SYSTEMS} == {"dynamic"}


def test_rivals_are_counted_from_the_best_merge_and_say_who_lies_within_its_interval(every_figure):
    told = every_figure["rivals"]
    assert list(told.data["value"]) == [0.0, 0.5, 5.0]  # the expert is no merge
    assert "in domain: Best leads, 2 of 3 lie within its interval" in told.alt


def test_a_tile_has_the_sign_of_its_outcome_and_every_outcome_is_in_the_legend(every_figure):
    fig = every_figure["tiles"].fig
    assert [text.get_text() for text in fig.axes[0].texts] == ["✓", "A1", "✗", "A2", "○", "B1"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [parts.HOLDS, parts.FAILS, parts.OPEN]


def test_a_mark_of_equals_lies_on_the_reference_and_less_lies_left_of_it(every_figure):
    for axes, values in zip(every_figure["marks"].fig.axes, ([0.5, 2.0], [0.1, 1.0]), strict=True):
        assert [line.get_xdata()[0] for line in axes.lines[:-1]] == values  # the last is the reference


def _contrast(colour, ground):
    """Of two colours, as WCAG reckons it."""
    light = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (*colour, *ground)]
    first, second = (np.dot((0.2126, 0.7152, 0.0722), light[i : i + 3]) + 0.05 for i in (0, 3))
    return max(first, second) / min(first, second)


def _in_the_dark(colour):
    """What ``invert(0.88) hue-rotate(180deg)`` of the style sheet makes of a colour."""
    turned = [[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]]
    return np.clip(turned @ (0.88 - 0.76 * np.array(colour)), 0, 1)


@pytest.mark.parametrize("colour", sorted({*style.COLOURS.values(), *style.LINES}))
def test_colours_stand_out_in_light_and_dark(colour):
    rgb = to_rgb(colour)
    assert _contrast(rgb, (1, 1, 1)) >= 3
    assert _contrast(_in_the_dark(rgb), _in_the_dark((1, 1, 1))) >= 3
