"""The page holds all it shows, follows the reader's colours, and copes with whatever a run came to."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gonio import ParticleTable, Pose, Volume
from gonio.report import Errors, Report

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


@pytest.fixture
def full(rng) -> Report:
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
    )


class Tags(HTMLParser):
    """Checks that what is opened is closed, and collects what could refer elsewhere."""

    VOID = frozenset({"meta", "link", "br", "img"})

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


def test_page_needs_nothing_else(full):
    tags = Tags(full.html())
    assert all(reference.startswith(("#", "data:")) for reference in tags.references)
    assert not re.search(r"url\((?!#)", full.html())


def test_ids_of_plots_do_not_clash(full):
    tags = Tags(full.html())
    assert len(tags.ids) == len(set(tags.ids))
    assert {reference[1:] for reference in tags.references if reference.startswith("#")} <= set(tags.ids)


def test_every_plot_has_a_caption_and_the_ink_of_the_page(full):
    page = full.html()
    # Six histograms, directions, two histograms of errors and two of them against predictions, two FSC, two maps.
    assert page.count("<figcaption>") == page.count("<figure>") == page.count("<svg") == 15
    assert "currentColor" in page
    assert "#010203" not in page
    assert "prefers-color-scheme: dark" in page


def test_text_is_escaped(full):
    assert "gonio align &lt;x&gt; &amp; more" in full.html()


def test_same_report_same_page(full):
    assert full.html() == full.html()


def test_worst_particles_come_first(rng):
    page = Report("x", FACTS, particles=table(12, rng, dissimilarity=np.arange(12.0))).html()
    shown = re.findall(r"particle/(\d+)", page)
    assert shown == [str(i) for i in range(11, 1, -1)]


@pytest.mark.parametrize("count", [1, 2, 3000])
def test_any_number_of_particles_can_be_shown(rng, count):
    Tags(Report("x", FACTS, particles=table(count, rng)).html())


@pytest.mark.parametrize("value", [0.0, 1e-300, 7.0, np.inf, np.nan])
def test_any_value_can_be_shown(rng, value):
    Tags(Report("x", FACTS, particles=table(3, rng, dissimilarity=np.full(3, value))).html())


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e30, np.inf, np.nan])
def test_any_prediction_can_be_shown(rng, value):
    """Of poses that nothing is known of, that are perfect, or that have no rival."""
    same = np.full(3, value)
    unsure = table(3, rng, rotation_sd_deg=same, shift_sd_angstrom=same, runner_up_margin=same)
    Tags(Report("x", FACTS, particles=unsure, errors=Errors(same, np.ones(3))).html())


def test_errors_stand_beside_what_was_predicted(rng):
    errors = Errors(np.ones(5), np.ones(5))
    page = Report("x", FACTS, particles=table(5, rng), errors=errors).html()
    assert "Rotation errors against predictions" in page
    assert "Shift errors against predictions" in page
    assert "against predictions" not in Report("x", FACTS, particles=table(5, rng)).html()


@pytest.mark.parametrize("shape", [(1, 2), (4, 9)])
def test_what_is_expected_can_be_shown_of_few(shape):
    page = Report("x", FACTS, expected=np.ones(shape), box_angstrom=160.0).html()
    assert "Expected agreement of a particle" in page
    assert f"{160.0 / (shape[1] - 1):.3g} angstrom" in page


def test_what_is_missing_is_left_out():
    page = Report("x", FACTS).html()
    assert "<h2>" not in page


def test_making_a_page_leaves_matplotlib_as_it_was(full):
    import matplotlib

    before = dict(matplotlib.rcParams)
    full.html()
    assert dict(matplotlib.rcParams) == before
