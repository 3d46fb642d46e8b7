"""Siblings share a half, halves are of one size, and of two particles in one place the better stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gonio import ParticleTable, Pose
from gonio.halves import duplicates, independent_halves, leaking_siblings, siblings

BOX = 100.0


def table_at(xyz, *, tomograms=None, shifts=None, **columns) -> ParticleTable:
    xyz = np.asarray(xyz, dtype=float)
    count = len(xyz)
    poses = Pose(Pose.identity(count).rotation, np.zeros((count, 3)) if shifts is None else np.asarray(shifts, float))
    names = tuple(f"p{i}" for i in range(count))
    return ParticleTable(poses, names, tuple(tomograms or ["t"] * count), xyz, columns=columns)


def test_boxes_that_overlap_are_siblings_and_theirs_too():
    # Apart by 99 along x; by 99 along x, y and z (171 in all); by 100; and in another tomogram.
    xyz = [[0, 0, 0], [99, 0, 0], [198, 99, 99], [298, 99, 99], [0, 0, 0]]
    families = siblings(table_at(xyz, tomograms=["a"] * 4 + ["b"]), box_angstrom=BOX)
    assert families[0] == families[1] == families[2]
    assert len({families[0], families[3], families[4]}) == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.floats(100, 3000), st.integers(0, 2**31))
def test_no_sibling_is_in_the_other_half(count, size, seed):
    rng = np.random.default_rng(seed)
    table = table_at(rng.uniform(0, size, (count, 3)))
    try:
        halves = independent_halves(table, box_angstrom=BOX, rng=rng)
    except ValueError:
        return
    families = siblings(table, box_angstrom=halves.distance_angstrom)
    assert all(len(set(halves.numbers[families == family])) == 1 for family in np.unique(families))
    sizes = np.bincount(halves.numbers, minlength=3)[1:]
    assert abs(sizes[0] - sizes[1]) <= max(np.bincount(families).max(), 1)
    assert halves.distance_angstrom <= BOX


def test_particles_that_are_alone_are_drawn_into_equal_halves():
    table = table_at(1000.0 * np.arange(30).reshape(10, 3))
    first = independent_halves(table, box_angstrom=BOX, rng=np.random.default_rng(1))
    assert np.bincount(first.numbers).tolist() == [0, 5, 5]
    assert first.distance_angstrom == BOX
    again = independent_halves(table, box_angstrom=BOX, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(first.numbers, again.numbers)
    others = [independent_halves(table, box_angstrom=BOX, rng=np.random.default_rng(s)).numbers for s in range(5)]
    assert len({tuple(numbers) for numbers in others}) > 1


def test_where_all_overlap_nearer_ones_alone_are_kept_together():
    line = np.zeros((20, 3))
    line[:, 0] = 70.0 * np.arange(20)
    line[1, 0] = 5.0
    halves = independent_halves(table_at(line), box_angstrom=BOX, rng=np.random.default_rng(0))
    assert halves.distance_angstrom < 70.0
    assert halves.numbers[0] == halves.numbers[1]


def test_halves_that_cannot_be_made_are_told():
    with pytest.raises(ValueError, match="at least two particles"):
        independent_halves(table_at([[0, 0, 0]]), box_angstrom=BOX, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="no two halves are independent"):
        independent_halves(table_at(np.zeros((6, 3))), box_angstrom=BOX, rng=np.random.default_rng(0))


def test_without_coordinates_all_are_alone():
    table = ParticleTable(Pose.identity(4), tuple("abcd"), ("t",) * 4)
    assert len(set(siblings(table, box_angstrom=BOX))) == 4


def test_leaks_between_halves_are_seen():
    table = table_at([[0, 0, 0], [50, 0, 0], [500, 0, 0], [540, 0, 0]])
    leaks = [
        leaking_siblings(_with(table, halves), box_angstrom=BOX).tolist() for halves in ([1, 2, 1, 1], [1, 1, 2, 0])
    ]
    assert leaks == [[True, True, False, False], [False] * 4]


def _with(table, halves):
    from dataclasses import replace

    return replace(table, half_sets=np.array(halves, np.int8))


def test_of_duplicates_the_better_stays():
    xyz = [[0, 0, 0], [30, 0, 0], [60, 0, 0], [500, 0, 0], [500, 0, 0]]
    plain = table_at(xyz, tomograms=["t"] * 4 + ["u"])
    assert duplicates(plain, distance_angstrom=40.0).tolist() == [False, True, False, False, False]
    scored = table_at(xyz, tomograms=["t"] * 4 + ["u"], dissimilarity=np.array([0.3, 0.2, 0.4, 0.1, 0.1]))
    assert duplicates(scored, distance_angstrom=40.0).tolist() == [True, False, True, False, False]


def test_duplicates_are_told_by_where_particles_are_not_their_boxes():
    table = table_at([[0, 0, 0], [100, 0, 0]], shifts=[[45, 0, 0], [-45, 0, 0]])
    assert duplicates(table, distance_angstrom=20.0).tolist() == [False, True]
    with pytest.raises(ValueError, match="no coordinates"):
        duplicates(ParticleTable(Pose.identity(2), ("a", "b"), ("t", "t")), distance_angstrom=20.0)
