"""Half sets: groups are not split, halves are of equal size, a seed gives one result; duplicates are found by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gonio.particle.half_sets import Duplicate, duplicates, origin_of, overlapping_groups, split, split_groups


def crowd(count: int, seed: int) -> tuple[list[str], list[str], np.ndarray]:
    """Particles of three tomograms, 1000 angstrom wide."""
    tomograms = [f"TS_{i % 3}" for i in range(count)]
    names = [f"{tomogram}/{i}" for i, tomogram in enumerate(tomograms)]
    return names, tomograms, np.random.default_rng(seed).uniform(0.0, 1000.0, (count, 3))


@given(st.integers(1, 60), st.integers(0, 10**6))
def test_overlapping_boxes_are_of_one_family_and_families_of_one_half(count, seed):
    names, tomograms, places = crowd(count, seed)
    family = overlapping_groups(names, tomograms, places, within_angstrom=150.0)
    halves = split(family, rng=np.random.default_rng(seed))
    assert set(halves.tolist()) <= {1, 2}
    for i in range(count):
        for j in range(i):
            near = tomograms[i] == tomograms[j] and np.abs(places[i] - places[j]).max() < 150.0
            assert not near or (family[i] == family[j] and halves[i] == halves[j])
    assert len(split_groups(family, halves)) == 0


@given(st.integers(2, 60), st.integers(0, 10**6))
def test_halves_differ_by_no_more_than_the_largest_family(count, seed):
    names, tomograms, places = crowd(count, seed)
    family = overlapping_groups(names, tomograms, places, within_angstrom=150.0)
    halves = split(family, rng=np.random.default_rng(seed))
    assert abs(int((halves == 1).sum()) - int((halves == 2).sum())) <= np.bincount(family).max()


def test_a_far_particle_joins_the_family_of_its_origin():
    names, tomograms = ["TS/1/1", "TS/1/2", "TS/2/1", "TS/12"], ["TS"] * 4
    places = 1000.0 * np.arange(4.0)[:, None] * np.ones(3)
    family = overlapping_groups(names, tomograms, places, within_angstrom=100.0)
    assert family[0] == family[1]
    assert len(set(family.tolist())) == 3


@pytest.mark.parametrize(
    ("name", "tomogram", "origin"),
    [("TS_1/17/3", "TS_1", "TS_1/17"), ("TS_1/17", "TS_1", "TS_1/17"), ("a/b/c.mrc", "TS_1", "a/b/c.mrc")],
)
def test_the_origin_of_a_sub_particle_is_in_its_name(name, tomogram, origin):
    assert origin_of(name, tomogram) == origin


def test_positions_that_are_all_alike_say_nothing():
    names = [f"simulated/{i}" for i in range(5)]
    family = overlapping_groups(names, ["simulated"] * 5, np.zeros((5, 3)), within_angstrom=100.0)
    assert len(set(family.tolist())) == 5


def test_given_half_sets_stay_and_new_particles_join_their_family():
    family = np.array([0, 0, 0, 1, 2, 2])
    given = np.array([2, 2, 0, 0, 1, 0], dtype=np.int8)
    halves = split(family, rng=np.random.default_rng(0), given=given)
    assert halves[[0, 1, 4]].tolist() == [2, 2, 1]
    assert (halves[2], halves[5]) == (2, 1)
    assert halves[3] in (1, 2)


def test_the_same_seed_splits_alike_and_another_otherwise():
    family = np.arange(40)
    first, again, other = (split(family, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first == 1).sum() == 20


def test_a_family_in_both_halves_is_told():
    assert split_groups(np.array([0, 0, 1, 1]), np.array([1, 2, 1, 1], dtype=np.int8)).tolist() == [0]


@given(st.integers(1, 60), st.integers(0, 10**6))
def test_what_stays_lies_apart_and_what_goes_lies_near_something_better(count, seed):
    _, tomograms, places = crowd(count, seed)
    worth = np.random.default_rng(seed + 1).uniform(size=count)
    gone = duplicates(tomograms, places, distance_angstrom=200.0, dissimilarity=worth)
    stays = np.setdiff1d(np.arange(count), [one.row for one in gone])
    for one in gone:
        assert one.of_row in stays
        assert worth[one.of_row] <= worth[one.row]
        assert one.distance_angstrom == pytest.approx(np.linalg.norm(places[one.row] - places[one.of_row]))
    for i in stays:
        for j in stays:
            assert i == j or tomograms[i] != tomograms[j] or np.linalg.norm(places[i] - places[j]) >= 200.0


def test_the_first_of_the_list_stays_where_nothing_tells_which_is_better():
    places = np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [500.0, 0.0, 0.0]])
    assert duplicates(["TS"] * 3, places, distance_angstrom=20.0) == [Duplicate(1, 0, 10.0)]
    assert duplicates(["a", "b", "c"], places, distance_angstrom=20.0) == []


def test_a_distance_that_is_none_is_refused():
    with pytest.raises(ValueError, match="distance_angstrom"):
        duplicates(["TS"], np.zeros((1, 3)), distance_angstrom=0.0)
