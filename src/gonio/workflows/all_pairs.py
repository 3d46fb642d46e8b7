"""All pairs of a set of particles, each aligned once: the start of a classification.

A particle is a reference for those after it and a target for those before. Pairs are done in tiles: a block of
references against a block of targets, each read once a tile. A tile holds the numbers of particles alone, so that any
worker can do it; a worker keeps what it prepared for its next tiles.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import Aligner, shell_sums
from gonio.alignment.particle_list import ParticleError
from gonio.alignment.prepared import Prepared, finished
from gonio.alignment.result import Result
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Particle, TiltStack
from gonio.preparation.prepare import Kept
from gonio.run.executor import Executor, Local
from gonio.search.backend import Backend, Evaluation
from gonio.search.batch_task import BatchTask
from gonio.search.cpu import Cpu
from gonio.settings import LocalSearch, Settings

T = TypeVar("T")

STAGE = "aligning pairs"
MEMORY_BYTES = 2**30
# The seeds that a reference keeps may take this many times the memory of its spectra (n = 32, 40 angstrom: 3 times).
WITH_SEEDS = 4
# Largest number of particles in a block: 64 pairs are half a second of work.
BLOCK = 8
# Largest number of references kept: tiles come row by row, and a row has the references of one block.
HELD = 4 * BLOCK


@dataclass(frozen=True)
class PairResult:
    """Particles ``reference`` < ``target`` of the set, and the pose that aligns the first to the second.

    ``sums`` are |f|^2, |g|^2, f.g and |Omega| of shells at frequencies ``frequency_per_angstrom`` (s,), shape
    (2, s, 4): first at the input poses, then at the pose found. All samples that both have measured have one weight
    (``Aligner.shell_sums``).
    """

    reference: int
    target: int
    result: Result
    frequency_per_angstrom: NDArray[np.float64]
    sums: NDArray[np.float64]

    def __post_init__(self) -> None:
        if np.shape(self.sums) != (2, *np.shape(self.frequency_per_angstrom), 4):
            raise ValueError(f"sums must be (2, s, 4) of shells (s,), got shape {np.shape(self.sums)}")


def align_all_pairs(
    particles: Sequence[Particle] | ParticleTable,
    settings: Settings | None = None,
    *,
    rng: np.random.Generator | None = None,
    poses: Pose | None = None,
    executor: Executor | None = None,
    memory_bytes: float = MEMORY_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[PairResult]:
    """Align all pairs of n particles, n (n - 1) / 2 of them.

    Parameters
    ----------
    particles
        Any sequence, or a list; each particle is read once a tile.
    settings
        Settings of every alignment; a local search is refused, since no pair has a start.
    rng
        Draws the candidates of a stochastic search or a drawn pool, which need it.
    poses
        Input poses, a batch of n, at which ``PairResult.sums`` compares pairs before alignment. None for identities.
    executor
        Runs the tiles, such as ``gonio.Local(4)`` or ``gonio.executor_for("cuda")``; this process, one after another,
        unless given. Results do not depend on it, but for the rounding of GPUs.
    memory_bytes
        Memory for prepared references, and as much again for targets, in each process. Results do not depend on it.
    progress
        Called with the number of pairs done and of all pairs.

    Yields
    ------
    A ``PairResult`` for each pair, tile by tile, within a tile target by target.

    Raises
    ------
    ValueError
        A local search, a missing ``rng``; particles that cannot be compared, by name.
    TypeError
        Tilt stacks, which cannot be a reference.
    """
    settings = Settings() if settings is None else settings
    if isinstance(settings.search, LocalSearch):
        raise ValueError("a local search needs a start for each pair: use Aligner(...).align_many(..., starts=poses)")
    n = len(particles)
    if poses is not None and len(poses) != n:
        raise ValueError(f"{n} particles need as many poses, got {len(poses)}")
    if n < 2:
        return
    # One seed for all: a pair's generator follows from it and the pair's numbers, whatever tile it is in.
    seed = None if rng is None else int(rng.integers(2**63))
    held = _references_in_memory(particles, settings, memory_bytes)
    tiles = _Tiles(particles, settings, poses, seed, min(held, BLOCK), _Prepared(min(held, HELD), held))
    done = 0
    for number, results in enumerate((executor or Local())(STAGE, tiles, len(tiles))):
        if [(one.reference, one.target) for one in results] != tiles.pairs(number):
            raise ValueError(f"tile {number} has other pairs than its own: pass --overwrite to begin again")
        done += len(results)
        yield from results
        if progress:
            progress(done, n * (n - 1) // 2)


def _references_in_memory(
    particles: Sequence[Particle] | ParticleTable, settings: Settings, memory_bytes: float
) -> int:
    """Return the number of prepared references that fit into memory, at least one."""
    with ParticleError.naming(f"particle {_name(particles, 0)}"):
        one = Aligner(_particle(particles, 0), settings)  # type: ignore[arg-type]  # no stack comes here
    return int(max(memory_bytes // max(WITH_SEEDS * one.memory_bytes, 1), 1))


class _Prepared:
    """Prepared references and targets by number: of each, the ones used last."""

    def __init__(self, references: int, targets: int) -> None:
        self._most, self._lock = (references, targets), Lock()
        self._references: OrderedDict[int, Aligner] = OrderedDict()
        self._targets: OrderedDict[int, Kept] = OrderedDict()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as empty: another process prepares for itself."""
        return _Prepared, self._most

    def reference(self, index: int, make: Callable[[], Aligner]) -> Aligner:
        """Return a reference, which is made if it is not kept."""
        with self._lock:
            if index in self._references:
                self._references.move_to_end(index)
                return self._references[index]
        made = make()
        with self._lock:
            return _kept(self._references, index, made, self._most[0])

    def target(self, index: int) -> Kept:
        """Return what was prepared of a target; an alignment adds to it."""
        with self._lock:
            return _kept(self._targets, index, self._targets.get(index, {}), self._most[1])


def _kept(held: OrderedDict[int, T], index: int, made: T, most: int) -> T:
    """Return the value of a number, ``made`` where there is none, as the one used last of at most ``most``."""
    found = held.setdefault(index, made)
    held.move_to_end(index)
    while len(held) > most:
        held.popitem(last=False)
    return found


def _particle(particles: Sequence[Particle] | ParticleTable, index: int) -> Particle:
    particle = particles.load(index) if isinstance(particles, ParticleTable) else particles[index]
    if isinstance(particle, TiltStack):
        raise TypeError("tilt stacks cannot be compared with one another: classify them by references")
    return particle


def _name(particles: Sequence[Particle] | ParticleTable, index: int) -> str:
    return repr(particles.names[index]) if isinstance(particles, ParticleTable) else str(index + 1)


@dataclass(frozen=True)
class _Pair:
    """A pair ready to be searched, and its pose by the input poses."""

    reference: int
    target: int
    search: Prepared
    listed: Pose


@dataclass(frozen=True)
class _Tiles(BatchTask[list[_Pair], list[PairResult]]):
    """Tiles of a set: called with a tile's number, aligns its pairs."""

    returns = list[PairResult]
    unit = "blocks of pairs"
    particles: Sequence[Particle] | ParticleTable
    settings: Settings
    poses: Pose | None
    seed: int | None
    block: int
    prepared: _Prepared = field(compare=False)

    def __len__(self) -> int:
        blocks = -(-len(self.particles) // self.block)
        return blocks * (blocks + 1) // 2

    @property
    def searches(self) -> int:
        return self.block**2

    def __call__(self, item: int) -> list[PairResult]:
        """Align the pairs of a tile on the CPU, one after another, which takes less memory than all at once."""
        return [_aligned([pair], Cpu())[0] for pair in self._pairs(item)]

    def prepare(self, item: int) -> list[_Pair]:
        return list(self._pairs(item))

    def finish(self, prepared: Sequence[list[_Pair]], backend: Backend) -> list[list[PairResult]]:
        found = iter(_aligned([pair for tile in prepared for pair in tile], backend))
        return [[next(found) for _ in tile] for tile in prepared]

    def _pairs(self, number: int) -> Iterator[_Pair]:
        """Prepare the pairs of a tile, each when it is needed."""
        rows, columns = self._rows_and_columns(number)
        read = {index: _particle(self.particles, index) for index in {*rows, *columns}}
        last = columns[-1]
        aligners = {index: self._reference(read[index], index) for index in rows if index < last}
        for target in columns:
            kept = self.prepared.target(target)
            for reference in (i for i in rows if i < target):
                yield self._pair(aligners[reference], reference, target, read[target], kept)

    def _pair(self, aligner: Aligner, reference: int, target: int, particle: Particle, kept: Kept) -> _Pair:
        rng = None if self.seed is None else np.random.default_rng([self.seed, reference, target])
        names = f"particle {_name(self.particles, target)}, with {_name(self.particles, reference)} as reference"
        with ParticleError.naming(names):
            search = aligner.prepare(particle, rng=rng, kept=kept)
        listed = Pose.identity() if self.poses is None else self.poses[target] @ self.poses[reference].inverse()
        return _Pair(reference, target, search, listed)

    def pairs(self, number: int) -> list[tuple[int, int]]:
        """Return the particles of a tile's pairs, in the order of its results."""
        rows, columns = self._rows_and_columns(number)
        return [(reference, target) for target in columns for reference in rows if reference < target]

    def _rows_and_columns(self, number: int) -> list[range]:
        every = range(len(self.particles))
        return [every[i : i + self.block] for i in list(combinations_with_replacement(every[:: self.block], 2))[number]]

    def _reference(self, particle: Particle, index: int) -> Aligner:
        return self.prepared.reference(index, lambda: self._aligner(particle, index))

    def _aligner(self, particle: Particle, index: int) -> Aligner:
        with ParticleError.naming(f"particle {_name(self.particles, index)}"):
            return Aligner(particle, self.settings)  # type: ignore[arg-type]  # no stack comes here


def _aligned(pairs: Sequence[_Pair], backend: Backend) -> list[PairResult]:
    """Search pairs, and sum the shells of each at its input pose and at the pose found."""
    results = finished([pair.search for pair in pairs], backend)
    evaluations = [
        Evaluation.at(pair.search.by_fcs, Pose.stack([pair.listed, result.pose]))
        for pair, result in zip(pairs, results, strict=True)
    ]
    return [
        PairResult(pair.reference, pair.target, result, *sums)
        for pair, result, sums in zip(pairs, results, shell_sums(evaluations, backend), strict=True)
    ]
