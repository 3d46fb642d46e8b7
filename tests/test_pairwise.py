"""All pairs are what each pair is by itself, in any number of blocks and threads."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest

from examples import POSES, assert_found, noisy
from gonio.alignment.aligner import Aligner
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, TiltStack
from gonio.run.executor import Local
from gonio.settings import Settings
from gonio.workflows.all_pairs import align_all_pairs

COUNT = 4


@dataclass
class Reader:
    """Particles that are made when they are asked for, and how often each was."""

    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Subtomogram:
        if not 0 <= index < COUNT:
            raise IndexError(index)
        self.asked.append(index)
        return noisy(index)


def found(**options) -> dict[tuple[int, int], np.ndarray]:
    """Every pair's pose, as numbers."""
    pairs = list(align_all_pairs(Reader(), **options))
    assert len(pairs) == len({(p.reference, p.target) for p in pairs}) == COUNT * (COUNT - 1) // 2
    return {(p.reference, p.target): np.append(p.result.pose.matrix, p.result.pose.shift_angstrom) for p in pairs}


def test_a_pair_of_many_is_that_pair_alone():
    for (reference, target), pose in found().items():
        alone = Aligner(noisy(reference)).align(noisy(target)).pose
        np.testing.assert_array_equal(pose, np.append(alone.matrix, alone.shift_angstrom))


def test_the_earlier_particle_is_laid_on_the_later():
    for pair in align_all_pairs([noisy(i) for i in range(3)]):
        assert pair.reference < pair.target
        assert_found(pair.result, POSES[pair.target] @ POSES[pair.reference].inverse(), degrees=4.0, voxels=0.5)


@pytest.mark.parametrize(
    "options", [{"executor": Local(2)}, {"memory_bytes": 1}, {"memory_bytes": 1.5e6, "executor": Local(3)}]
)
def test_neither_threads_nor_memory_change_a_bit(options):
    expected, other = found(), found(**options)
    for pair, pose in expected.items():
        np.testing.assert_array_equal(other[pair], pose)


def test_a_particle_is_asked_for_once_a_tile():
    reader = Reader()
    list(align_all_pairs(reader))
    assert sorted(reader.asked) == [0, 0, 1, 2, 3]  # the first also tells how many a tile may hold
    reader = Reader()
    list(align_all_pairs(reader, memory_bytes=1))  # tiles of one pair
    assert len(reader.asked) == 1 + 4 + 2 * 6


def test_the_sums_tell_the_poses_that_were_listed_from_those_found():
    particles = [noisy(i) for i in range(3)]
    for pair in align_all_pairs(particles, poses=POSES[np.arange(3)]):
        truth = POSES[pair.target] @ POSES[pair.reference].inverse()
        aligner = Aligner(particles[pair.reference])
        frequency, sums = aligner.shell_sums(particles[pair.target], Pose.stack([truth, pair.result.pose]))
        np.testing.assert_array_equal(pair.sums, sums)
        np.testing.assert_array_equal(pair.frequency_per_angstrom, frequency)
    for listed, boxes in zip(
        align_all_pairs(particles, poses=Pose.identity(3)), align_all_pairs(particles), strict=True
    ):
        np.testing.assert_array_equal(listed.sums, boxes.sums)
        assert correlation(boxes.sums[1]) > correlation(boxes.sums[0])


def correlation(sums: np.ndarray) -> float:
    """Over all shells."""
    ff, gg, fg, _ = sums.sum(axis=0)
    return fg / np.sqrt(ff * gg)


def test_any_executor_does_the_tiles():
    asked = []

    def executor(stage, function, count, *, keep=True):
        asked.append((stage, count))
        function = pickle.loads(pickle.dumps(function))
        return iter([function(index) for index in range(count)])

    particles = [noisy(i) for i in range(3)]
    for here, there in zip(
        align_all_pairs(particles), align_all_pairs(particles, executor=executor, memory_bytes=1), strict=True
    ):
        assert (here.reference, here.target) == (there.reference, there.target)
        np.testing.assert_array_equal(here.sums, there.sums)
    assert asked == [("aligning pairs", 6)]


def test_tilt_stacks_cannot_be_paired():
    stack = TiltStack(np.eye(16)[None], np.eye(3)[None, :2], 10.0)
    with pytest.raises(TypeError, match="by references"):
        next(align_all_pairs([stack, stack]))


def test_draws_do_not_depend_on_blocks():
    settings = Settings(search="stochastic")
    one, many = (found(settings=settings, rng=np.random.default_rng(3), memory_bytes=memory) for memory in (1, 2**30))
    for pair, pose in one.items():
        np.testing.assert_array_equal(many[pair], pose)


def test_progress_ends_with_all_pairs():
    told = []
    list(align_all_pairs(Reader(), progress=lambda done, total: told.append((done, total))))
    assert told[-1] == (6, 6)
    assert told == sorted(told)


def test_pairs_have_no_start():
    with pytest.raises(ValueError, match="needs a start"):
        next(align_all_pairs(Reader(), Settings(search="local")))


def test_no_particles_make_no_pairs():
    assert list(align_all_pairs([])) == []
    assert list(align_all_pairs([noisy(0)])) == []
