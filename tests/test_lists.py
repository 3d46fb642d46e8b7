"""Lists are aligned as their particles are, whoever does it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from gonio import Aligner, Settings, Volume
from gonio.alignment.particle_list import AlignRow, ParticleError, align_table, learn
from gonio.run.checkpoint import Checkpoint
from gonio.run.executor import Checkpointed, Local
from listed import aligner, bits, listed

COUNT = 5
LOCAL = Settings(search="local", inputs="plain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    listed(tmp_path_factory.getbasetemp() / "listed", COUNT)
    return tmp_path_factory.getbasetemp() / "listed"


@pytest.fixture(scope="module")
def alone(folder):
    """The results of one process."""
    return bits(align_table(listed(folder, COUNT), aligner(folder)))


@pytest.mark.parametrize("settings", [None, Settings(pool="drawn")], ids=["default", "drawn"])
def test_rows_are_aligned_as_many_are(folder, settings):
    table = listed(folder, COUNT)[:3]
    many = aligner(folder, settings).align_many(table.particles(), rng=np.random.default_rng(7))
    rows = align_table(table, aligner(folder, settings), executor=Local(2), seed=7)
    assert bits(rows) == bits(many)


def test_the_seed_matters_where_something_is_drawn(folder):
    table, drawn = listed(folder, COUNT)[:1], aligner(folder, Settings(pool="drawn"))
    assert bits(align_table(table, drawn, seed=7)) != bits(align_table(table, drawn, seed=8))


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_no_bit(folder, alone, workers):
    assert bits(align_table(listed(folder, COUNT), aligner(folder), executor=Local(workers))) == alone


def test_a_checkpoint_changes_no_bit(folder, alone, tmp_path):
    for before, make in ((0, Checkpoint.create), (COUNT, Checkpoint.resume)):
        checkpoint = make(tmp_path / "journal", {})
        assert len(checkpoint) == before
        assert (
            bits(align_table(listed(folder, COUNT), aligner(folder), executor=Checkpointed(Local(2), checkpoint)))
            == alone
        )
        checkpoint.close()


def test_the_work_travels_without_the_particles(folder):
    """A function of the list, the reference and nothing else."""

    def measured(stage, function, count, *, keep=True):
        sizes.append(len(pickle.dumps(function)))
        return iter(Local()(stage, function, count))

    sizes: list[int] = []
    align_table(listed(folder, COUNT)[:1], aligner(folder), executor=measured)
    prepared = aligner(folder).memory_bytes
    assert sizes[0] < 2 * prepared + 100_000


def test_local_searches_begin_at_the_listed_poses(folder):
    table = listed(folder, COUNT, "truth.star")[:2]
    rows = list(map(AlignRow(table, aligner(folder, LOCAL)), range(len(table))))
    many = aligner(folder, LOCAL).align_many(table.particles(), starts=table.poses)
    assert bits([row.result for row in rows]) == bits(many)
    before = [aligner(folder, LOCAL).dissimilarity(table.load(i), table.poses[[i]])[0] for i in range(2)]
    assert [row.before for row in rows] == before
    assert all(row.result.dissimilarity <= row.before for row in rows)
    assert np.isnan(AlignRow(table, aligner(folder))(0).before)


def test_what_is_learnt_is_what_the_aligner_learns(folder):
    table = listed(folder, COUNT)[:3]
    many = aligner(folder).learn(table.particles(), rng=np.random.default_rng(0))
    told = learn(table, aligner(folder), executor=Local(2))
    np.testing.assert_array_equal(told.correlation, many.correlation)
    expected = align_table(table[:1], aligner(folder), expected_fsc=told)
    assert bits(expected) != bits(align_table(table[:1], aligner(folder)))
    assert learn(table, aligner(folder, LOCAL)) is None


def test_an_error_names_the_particle(folder):
    table, reference = listed(folder, COUNT), aligner(folder).reference.volume
    other = Aligner(Volume(reference.data, 12.0))
    for workers in (1, 2):
        with pytest.raises(ParticleError, match=f"particle '{table.names[0]}': voxel sizes differ"):
            align_table(table, other, executor=Local(workers))
