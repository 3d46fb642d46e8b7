"""The page holds all it shows, follows the reader's colours, and copes with whatever a run came to."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest

from gonio import ParticleTable, Pose, Volume
from gonio.report import Chapter, Classes, Errors, Iteration, Matrix, Outlier, Report, html, outlying_particles

FACTS = {"command": "gonio align <x> & more", "seed": "0"}


def table(count: int, rng: np.random.Generator, **columns) -> ParticleTable:
    found = {
        "dissimilarity": rng.random(count),
        "overlap": np.ones(count),
        "status": np.full(count, "converged"),
        "change_of_orientation_deg": 10 * rng.random(count),
        "change_of_shift_angstrom": 10 * rng.random(count),
        "rotation_sd_deg": 1 + rng.random(count),
        "shift_sd_angstrom": 1 + rng.random(count),
        "runner_up_margin": 100 * rng.random(count),
    }
    names = tuple(f"particle/{i}" for i in range(count))
    poses = Pose.random(count, rng=rng)
    return ParticleTable(poses, names, ("t",) * count, columns={**found, **columns})


@pytest.fixture(scope="module")
def full() -> Report:
    """A report with all that there can be."""
    rng = np.random.default_rng(20120626)
    noise = Volume(rng.normal(size=(16, 16, 16)), 10.0)
    return Report(
        "A run",
        FACTS,
        [("median", "1.0 degrees", "lower is better")],
        table(30, rng),
        Errors(5 * rng.random(30), 5 * rng.random(30)),
        expected=np.linspace(1, 0, 7) ** (1 + rng.random((30, 1))),
        curves={"half maps": np.linspace(1, -0.1, 9), "against reference": np.linspace(1, 0, 9)},
        box_angstrom=160.0,
        maps={"average": noise, "reference": noise},
        against={"defocus (angstrom)": 1e4 * rng.random(30)},
        coverage=rng.random((16, 16, 16)),
        outliers=[
            Outlier("particle/3", "fits worse than the others", noise),
            Outlier("particle/4", "ended as 'max_iterations'"),
        ],
        classes=Classes({"class 1": noise, "class 2": Volume(-noise.data, 10.0)}, [10, 20]),
        matrix=Matrix(
            None, np.ones((4, 4)), np.array([[0, 1, 0.1, 2], [2, 3, 0.1, 2], [4, 5, 0.9, 4]]), np.array([1, 1, 2, 2])
        ),
        iterations=[Iteration(60.0, 40.0, 10.0, 8.0), Iteration(40.0, 30.0, 1.0, 0.5)],
        chapters=[Chapter("A study", "It <shows>.", {"of it": [["a", "b"], ["1", "<2>"]]}, {"drawn": b"png"}, "told")],
    )


@pytest.fixture(scope="module")
def page(full) -> str:
    """Its page."""
    return html(full)


class Tags(HTMLParser):
    """Checks that what is opened is closed, and collects what could refer elsewhere."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.note(attrs)

    def handle_startendtag(self, tag, attrs):
        self.note(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def note(self, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_page_needs_nothing_else(page):
    tags = Tags(page)
    assert all(reference.startswith(("#", "data:")) for reference in tags.references)
    assert not re.search(r"url\((?!#)", page)


def test_ids_of_plots_do_not_clash(page):
    tags = Tags(page)
    assert len(tags.ids) == len(set(tags.ids))
    assert {reference[1:] for reference in tags.references if reference.startswith("#")} <= set(tags.ids)


def test_every_figure_has_a_caption_and_the_ink_of_the_page(page):
    # Six histograms, shifts, directions, two dissimilarities against something, two histograms of errors and two of
    # them against predictions, FSC, expectation, two of iterations, slices, projections, surfaces of two maps, an odd
    # particle, classes and their sizes, matrix, coverage.
    assert page.count("<svg") == 29
    assert page.count("<figcaption>") == page.count("</figure>") == 31  # and the surface to rotate, and a picture
    assert "currentColor" in page
    assert "#010203" not in page
    assert "prefers-color-scheme: dark" in page


def test_numbers_behind_a_plot_are_in_the_page(page):
    link = re.search(
        r'download="fourier-shell-correlation.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page
    )
    rows = b64decode(link[1]).decode().splitlines()
    assert rows[0] == "per_angstrom,half maps,against reference"
    assert rows[1:] == [f"{s / 160:.6g},{1 - 1.1 * s / 8:.6g},{1 - s / 8:.6g}" for s in range(9)]


def test_surface_holds_the_map(full, page):
    content = json.loads(re.search(r"<script type=application/json>(.*?)</script>", page)[1])
    values = np.frombuffer(b64decode(content["values"]), "<f4").reshape((content["box"],) * 3)
    data = full.maps["average"].data
    np.testing.assert_allclose(values, (data - data.mean()) / data.std(), atol=0.006)
    assert content["step"] == 10.0


def test_odd_particles_are_those_far_from_the_others_with_reasons(rng):
    dissimilarity, status = 0.5 + 0.01 * rng.normal(size=40), np.full(40, "converged", dtype=object)
    dissimilarity[7], status[7], status[9] = 0.9, "max_iterations", "max_iterations"
    found = outlying_particles(table(40, rng, dissimilarity=dissimilarity, status=status), most=5)
    assert [row for row, _ in found] == [7, 9]
    assert "fits worse" in found[0][1].why
    assert "max_iterations" in found[0][1].why


@pytest.mark.parametrize("value", [0.0, 1.0, np.inf, np.nan])
def test_nothing_is_odd_where_all_are_alike(rng, value):
    alike = {name: np.full(5, value) for name in ("dissimilarity", "rotation_sd_deg", "shift_sd_angstrom")}
    alike["change_of_shift_angstrom"] = alike["overlap"] = np.full(5, value)
    assert outlying_particles(table(5, rng, **alike), most=5) == []


def test_surfaces_are_seen_from_where_they_say(full):
    """A ball at +x, a smaller one at +y, and a plate at -z that only views from the side see."""
    from gonio.report.pictures import _views, shaded

    data = np.zeros((24, 24, 24), dtype=np.float32)
    data[11:14, 11:14, 18:22] = 1.0  # +x
    data[11:14, 17:19, 11:14] = 1.0  # +y
    data[3:5, 10:15, 10:15] = 1.0  # -z
    seen = {axes: shaded(view, 0.3)[..., 3] > 0 for axes, view in _views(data).items()}
    assert seen["x, y"][12, 20] and seen["x, y"][18, 12] and not seen["x, y"][12, 4]
    assert seen["x, z"][12, 20] and seen["x, z"][4, 12] and not seen["x, z"][20, 12]
    assert seen["y, z"][12, 18] and seen["y, z"][4, 12] and not seen["y, z"][12, 6]
    # From +z the nearer of two is seen: a wall at the top hides a hole at the bottom.
    data[20:22, 8:16, 8:16] = 1.0
    top, hidden = shaded(_views(data)["x, y"], 0.3), shaded(_views(data)["x, z"], 0.3)
    assert top[12, 12, :3].max() > 0.5 and hidden[21, 12, 3]


def test_resolution_is_marked_and_ticks_are_in_angstrom():
    from gonio.report.figures import angstrom_axis, axes_of

    _, axes = axes_of()
    angstrom_axis(axes, 1.0 / 16.0)
    ticks = {label.get_text(): place for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert "16" in ticks
    np.testing.assert_allclose([1.0 / float(name) for name in ticks], list(ticks.values()))
    assert np.diff(list(ticks.values())).min() >= 0.0999 / 16.0
    page = html(Report("x", FACTS, curves={"a": np.linspace(1, 0, 9)}, box_angstrom=160.0, resolution=(23.4, "rule")))
    assert "23.4 Å" in page
    assert "angstrom" in page


def test_tomograms_stand_beside_one_another_the_worst_first(rng):
    from dataclasses import replace

    tomograms = ("good",) * 5 + ("bad & <odd>",) * 5
    values = np.r_[np.full(5, 0.2), np.full(5, 0.9)]
    listed = replace(table(10, rng, dissimilarity=values), tomograms=tomograms)
    page = html(Report("x", FACTS, particles=listed, against={"defocus (angstrom)": np.r_[np.full(9, 1e4), np.nan]}))
    part = page[page.index("<h2>Which tomograms differ?") : page.index("<h2>Which particles are odd?")]
    assert part.index("<td>bad &amp; &lt;odd&gt;</td><td>5</td><td>0.900</td>") < part.index("<td>good</td><td>5</td>")
    assert "<td>10000</td>" in part
    assert "Which tomograms differ?" not in html(Report("x", FACTS, particles=table(10, rng)))


def test_limits_decisions_commands_and_files_are_shown(rng):
    report = Report(
        "x",
        FACTS,
        particles=table(10, rng),
        max_shift_angstrom=12.5,
        decisions=[("symmetry", "C1", "not <given>")],
        next_steps=[("gonio average 'a b.star'", "the map")],
        files=["map.mrc", "iteration 1/"],
    )
    page = html(report)
    assert "limit of the search, 12.5 angstrom" in page
    assert "not &lt;given&gt;" in page
    assert "<pre>gonio average &#x27;a b.star&#x27;</pre>" in page
    assert '<a href="iteration%201/">iteration 1/</a>' in page
    Tags(page)


def test_iterations_show_their_fsc_and_their_map(full):
    shown = Iteration(60.0, 40.0, 1.0, 1.0, np.linspace(1, 0, 9), full.maps["average"])
    page = html(Report("x", FACTS, iterations=[shown, shown], box_angstrom=160.0))
    assert "FSC by iteration" in page
    assert "Maps by iteration" in page
    Tags(page)


def test_text_is_escaped(page):
    assert "gonio align &lt;x&gt; &amp; more" in page


def test_same_report_same_page(full, page):
    assert html(full) == page


def test_worst_particles_come_first(rng):
    page = html(Report("x", FACTS, particles=table(12, rng, dissimilarity=np.arange(12.0))))
    shown = re.findall(r"particle/(\d+)", page)
    assert shown == [str(i) for i in range(11, 1, -1)]


@pytest.mark.parametrize("count", [1, 2, 3000])
def test_any_number_of_particles_can_be_shown(rng, count):
    Tags(html(Report("x", FACTS, particles=table(count, rng))))


@pytest.mark.parametrize("value", [0.0, 1e-300, 7.0, np.inf, np.nan])
def test_any_value_can_be_shown(rng, value):
    Tags(html(Report("x", FACTS, particles=table(3, rng, dissimilarity=np.full(3, value)))))


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e30, np.inf, np.nan])
def test_any_prediction_can_be_shown(rng, value):
    """Of poses that nothing is known of, that are perfect, or that have no rival."""
    same = np.full(3, value)
    unsure = table(3, rng, rotation_sd_deg=same, shift_sd_angstrom=same, runner_up_margin=same)
    Tags(html(Report("x", FACTS, particles=unsure, errors=Errors(same, np.ones(3)))))


def test_errors_stand_beside_what_was_predicted(rng):
    errors = Errors(np.ones(5), np.ones(5))
    page = html(Report("x", FACTS, particles=table(5, rng), errors=errors))
    assert "Rotation errors against predictions" in page
    assert "Shift errors against predictions" in page
    assert "against predictions" not in html(Report("x", FACTS, particles=table(5, rng)))


@pytest.mark.parametrize("shape", [(1, 2), (4, 9)])
def test_what_is_expected_can_be_shown_of_few(shape):
    page = html(Report("x", FACTS, expected=np.ones(shape), box_angstrom=160.0))
    assert "Expected agreement of a particle" in page
    assert f"{160.0 / (shape[1] - 1):.3g} angstrom" in page


def test_what_is_missing_is_left_out():
    page = html(Report("x", FACTS))
    assert re.findall("<h2>(.*?)</h2>", page) == ["What was done"]


def test_making_a_page_leaves_matplotlib_as_it_was(rng):
    import matplotlib

    before = dict(matplotlib.rcParams)
    html(Report("x", FACTS, particles=table(5, rng)))
    assert dict(matplotlib.rcParams) == before
