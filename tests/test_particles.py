"""Tables of particles: columns of one length that are chosen and replaced together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable


class Shelf:
    """A source that hands out the number of the row that was asked for."""

    files = (Path("list.star"),)

    def load(self, index):
        return index


@pytest.fixture
def table(rng) -> ParticleTable:
    return ParticleTable(
        Pose.random(4, rng=rng, max_shift_angstrom=10.0),
        ("a", "b", "c", "d"),
        ("t1", "t1", "t2", "t2"),
        coordinates_angstrom=np.arange(12.0).reshape(4, 3),
        half_sets=np.array([1, 2, 1, 2], dtype=np.int8),
        columns={"score": np.array([0.1, 0.2, 0.3, 0.4])},
        source=Shelf(),
    )


@pytest.mark.parametrize(
    "chosen", [slice(1, 4, 2), [1, 3], np.array([1, 3]), np.array([False, True, False, True])], ids=str
)
def test_choosing_particles_chooses_every_column(table, chosen):
    part = table[chosen]
    assert len(part) == 2 and part.names == ("b", "d") and part.tomograms == ("t1", "t2")
    np.testing.assert_array_equal(part.poses.matrix, table.poses.matrix[[1, 3]])
    np.testing.assert_array_equal(part.coordinates_angstrom, table.coordinates_angstrom[[1, 3]])
    np.testing.assert_array_equal(part.half_sets, [2, 2])
    np.testing.assert_array_equal(part.columns["score"], [0.2, 0.4])
    np.testing.assert_array_equal(part.rows, [1, 3])


def test_a_choice_of_a_choice_still_loads_its_own_particles(table):
    part = table[1:][np.array([2, 0])]
    assert part.names == ("d", "b")
    assert list(part.particles()) == [3, 1] and part.load(0) == 3


@pytest.mark.parametrize("one", [0, -1, 9, np.int64(1), True, np.array(2), None], ids=repr)
def test_a_single_number_chooses_no_table(table, one):
    with pytest.raises(TypeError, match=r"a slice, a list of positions or a mask, got .*table\[\[i\]\]"):
        table[one]


def test_columns_can_be_left_out_and_files_are_those_of_the_source(table):
    assert table.without("score", "status").columns == {}
    assert "score" in table.columns
    assert table.files == (Path("list.star"),)
    assert ParticleTable(table.poses, table.names, table.tomograms).files == ()


def test_what_is_unknown_stays_unknown(rng):
    table = ParticleTable(Pose.random(2, rng=rng), ("a", "b"), ("t", "t"))
    assert table[:1].coordinates_angstrom is None
    np.testing.assert_array_equal(table.half_sets, [0, 0])
    np.testing.assert_array_equal(table.rows, [0, 1])
    with pytest.raises(ValueError, match="not read from a file"):
        table.load(0)


def test_an_empty_table_is_a_table(table):
    assert len(table[:0]) == 0 and list(table[:0].particles()) == []


def test_new_poses_leave_the_old_table_alone(table, rng):
    poses = Pose.random(4, rng=rng)
    new = table.with_poses(poses, score=[1, 2, 3, 4], status=["ok"] * 4)
    np.testing.assert_array_equal(new.columns["score"], [1, 2, 3, 4])
    np.testing.assert_array_equal(table.columns["score"], [0.1, 0.2, 0.3, 0.4])
    assert "status" not in table.columns and new.poses is poses and new.names == table.names


def test_parts_of_different_length_are_refused(table, rng):
    names, tomograms = table.names, table.tomograms
    for poses in (Pose.identity(), Pose.random(3, rng=rng)):
        with pytest.raises(ValueError, match="4 names need a batch of 4 poses"):
            ParticleTable(poses, names, tomograms)
    with pytest.raises(ValueError, match="4 tomogram names"):
        ParticleTable(table.poses, names, tomograms[:3])
    with pytest.raises(ValueError, match="column 'score' has 3 values for 4"):
        table.with_poses(table.poses, score=[1, 2, 3])


@pytest.mark.parametrize(
    "part", [{"coordinates_angstrom": np.zeros((4, 2))}, {"half_sets": np.zeros(3)}, {"rows": np.zeros(5, dtype=int)}]
)
def test_arrays_of_another_shape_are_refused(table, part):
    with pytest.raises(ValueError, match=next(iter(part))):
        ParticleTable(table.poses, table.names, table.tomograms, **part)
