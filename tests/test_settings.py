"""Settings say what they mean, and refuse what makes no sense."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from gonio.comparison.score import Score
from gonio.settings import Inputs, Pool, Search, Settings

LENGTHS = (
    "resolution_angstrom",
    "max_shift_angstrom",
    "max_rotation_deg",
    "mask_diameter_angstrom",
    "particle_diameter_angstrom",
    "tolerance_angstrom",
    "prior_rotation_sd_deg",
    "prior_shift_sd_angstrom",
    "axis_sd_deg",
)
PAPERS = (Search.STOCHASTIC, Search.AXIS_STOCHASTIC, Search.INDEPENDENT)
SEARCHES = "coarse_to_fine, axis, local, stochastic, axis_stochastic, independent"


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_lengths_are_positive_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got {value!r}"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"score": "ncc"}, "score must be one of rcs, fcs, likelihood, got 'ncc'"),
        ({"search": "global"}, f"search must be one of {SEARCHES}, got 'global'"),
        ({"inputs": "raw"}, "inputs must be one of restored, plain, got 'raw'"),
        ({"pool": "some"}, "pool must be one of all, drawn, got 'some'"),
        ({"symmetry": "Q3"}, "the name of a symmetry must be"),
        ({"seed_interval_deg": 50.0}, "interval_deg must divide"),
        ({"max_refinement_iterations": 0}, "max_refinement_iterations must be at least 1, got 0"),
        ({"score": "likelihood", "inputs": "plain"}, "the likelihood score needs restored inputs"),
        ({"score": "likelihood", "search": "stochastic"}, "the likelihood score needs restored inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Settings(**wrong)


@pytest.mark.parametrize("search", [s for s in Search if s is not Search.LOCAL])
@pytest.mark.parametrize("name", ["prior_rotation_sd_deg", "prior_shift_sd_angstrom", "max_rotation_deg"])
def test_only_a_local_search_has_a_start(search, name):
    with pytest.raises(ValueError, match=f"which only a local search has, not {search}"):
        Settings(search=search, **{name: 3.0})
    assert getattr(Settings(search="local", **{name: 3.0}), name) == 3.0


@pytest.mark.parametrize("search", [s for s in Search if s is not Search.AXIS])
def test_only_an_axis_search_has_normals_that_may_differ(search):
    with pytest.raises(ValueError, match=f"about the normals of an axis search, got a search {search}"):
        Settings(search=search, axis_sd_deg=3.0)
    assert Settings(search="axis", axis_sd_deg=3.0).axis_sd_deg == 3.0


@pytest.mark.parametrize("search", list(Search))
def test_the_papers_searches_compare_particles_as_they_are(search):
    assert search.is_papers == (search in PAPERS)
    assert Settings(search=search).restores == (search not in PAPERS)
    assert not Settings(search=search, inputs="plain").restores
    if search in PAPERS:
        with pytest.raises(ValueError, match=f"the paper's search {search} compares plain inputs"):
            Settings(search=search, inputs="restored")
    else:
        assert Settings(search=search, inputs="restored").restores


def test_they_are_values():
    named = Settings(score="fcs", search="local", inputs="plain", pool="all")
    assert named == Settings(score=Score.FCS, search=Search.LOCAL, inputs=Inputs.PLAIN, pool=Pool.ALL)
    for name, kind in (("score", Score), ("search", Search), ("inputs", Inputs), ("pool", Pool)):
        assert type(getattr(named, name)) is kind
    with pytest.raises(FrozenInstanceError):
        named.score = Score.RCS
    with pytest.raises(ValueError, match="a prior holds poses near a start"):
        replace(Settings(search="local", prior_rotation_sd_deg=1.0), search="coarse_to_fine")


def test_the_default_needs_no_tuning():
    assert Settings().search is Search.COARSE_TO_FINE and Settings().restores and Settings().pool is Pool.ALL


def test_default_lengths_follow_from_the_box():
    lengths = Settings().lengths(box=32, voxel_size_angstrom=10.0)
    assert (lengths.resolution_angstrom, lengths.max_shift_angstrom) == (40.0, 80.0)
    resolved = Settings(resolution_angstrom=30.0).resolved(box=32, voxel_size_angstrom=10.0)
    assert (resolved.resolution_angstrom, resolved.max_shift_angstrom) == (30.0, 80.0)
    assert resolved.resolved(box=99, voxel_size_angstrom=1.0) == resolved
