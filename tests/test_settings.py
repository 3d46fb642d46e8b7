"""Settings say what they mean, and refuse what makes no sense."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from gonio.comparison.score import Score
from gonio.settings import (
    AxisSearch,
    GlobalSearch,
    Inputs,
    LocalSearch,
    Overlap,
    PaperSearch,
    Pool,
    Settings,
)

LENGTHS = (
    "resolution_angstrom",
    "max_shift_angstrom",
    "mask_diameter_angstrom",
    "particle_diameter_angstrom",
    "tolerance_angstrom",
)
PAPERS = ("stochastic", "axis_stochastic", "independent")
SEARCHES = (*PAPERS, "coarse_to_fine", "axis", "local")


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_lengths_are_positive_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got {value!r}"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    "kind, name",
    [
        (LocalSearch, "max_rotation_deg"),
        (LocalSearch, "prior_rotation_sd_deg"),
        (LocalSearch, "prior_shift_sd_angstrom"),
        (AxisSearch, "sd_deg"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_lengths_of_a_search_are_positive_numbers(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got {value!r}"):
        kind(**{name: value})


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"score": "ncc"}, "score must be one of rcs, fcs, likelihood, got 'ncc'"),
        ({"search": "global"}, f"search must be one of {', '.join(SEARCHES)}, got 'global'"),
        ({"inputs": "raw"}, "inputs must be one of restored, plain, got 'raw'"),
        ({"pool": "some"}, "pool must be one of all, drawn, got 'some'"),
        ({"symmetry": "Q3"}, "the name of a symmetry must be"),
        ({"search": 1}, "search must be one of"),
        ({"max_refinement_iterations": 0}, "max_refinement_iterations must be at least 1, got 0"),
        ({"score": "likelihood", "inputs": "plain"}, "likelihood needs restored inputs"),
        ({"score": "likelihood", "search": "stochastic"}, "likelihood needs restored inputs"),
        ({"pool": "drawn", "search": "independent"}, "pool is for other searches"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Settings(**wrong)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"seed_interval_deg": 50.0}, "seed_interval_deg must divide"),
        ({"name": "local"}, "name must be one of stochastic, axis_stochastic, independent, got 'local'"),
        ({"overlap": "none"}, "overlap must be one of held, moving, got 'none'"),
    ],
)
def test_what_the_paper_does_not_know_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        PaperSearch(**wrong)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_papers_searches_compare_particles_as_they_are(search):
    assert Settings(search=search).search.name == search
    assert isinstance(Settings(search=search).search, PaperSearch) == (search in PAPERS)
    assert Settings(search=search).restores == (search not in PAPERS)
    assert not Settings(search=search, inputs="plain").restores
    if search in PAPERS:
        with pytest.raises(ValueError, match=f"search {search} compares plain inputs"):
            Settings(search=search, inputs="restored")
    else:
        assert Settings(search=search, inputs="restored").restores


def test_they_are_values():
    named = Settings(score="fcs", search="local", inputs="plain", pool="all")
    assert named == Settings(score=Score.FCS, search=LocalSearch(), inputs=Inputs.PLAIN, pool=Pool.ALL)
    for name, kind in (("score", Score), ("inputs", Inputs), ("pool", Pool)):
        assert type(getattr(named, name)) is kind
    assert type(PaperSearch(overlap="moving").overlap) is Overlap
    with pytest.raises(FrozenInstanceError):
        named.score = Score.RCS
    assert replace(Settings(search=LocalSearch(1.0)), search="coarse_to_fine") == Settings()


def test_the_default_needs_no_tuning():
    assert Settings().search == GlobalSearch() and Settings().restores and Settings().pool is Pool.ALL


def test_default_lengths_follow_from_the_box():
    assert (Settings().resolution(10.0), Settings().max_shift(32, 10.0)) == (40.0, 80.0)
    resolved = Settings(resolution_angstrom=30.0).resolved(box=32, voxel_size_angstrom=10.0)
    assert (resolved.resolution_angstrom, resolved.max_shift_angstrom) == (30.0, 80.0)
    assert resolved.resolved(box=99, voxel_size_angstrom=1.0) == resolved
