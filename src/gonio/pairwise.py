"""All pairs of a set of particles, each aligned once: what classification starts from.

A particle is a reference for those that come after it and a target for those before. References are prepared in blocks
that a budget of memory holds; a target is restored once for all references of a block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gonio.alignment import Aligner
from gonio.coarse_to_fine import Pair
from gonio.device import CPU, Device, device_for, results
from gonio.evaluation import Asking
from gonio.result import Result
from gonio.run.parallel import in_order
from gonio.settings import Settings
from gonio.volume import Subtomogram

__all__ = ["PairResult", "align_all_pairs"]

MEMORY_BYTES = 2**30
# What a reference remembers of seeds may come to this many times its spectra (n = 32, 40 angstrom: 3 times).
WITH_SEEDS = 4


@dataclass(frozen=True)
class PairResult:
    """Particles ``reference`` < ``target`` of the set, and the pose that lays the first on the second."""

    reference: int
    target: int
    result: Result


def align_all_pairs(
    particles: Sequence[Subtomogram],
    settings: Settings | None = None,
    *,
    rng: np.random.Generator | None = None,
    n_threads: int = 1,
    memory_bytes: float = MEMORY_BYTES,
    progress: Callable[[int, int], None] | None = None,
    device: str | Device = CPU,
) -> Iterator[PairResult]:
    """Align all pairs of n particles, n (n - 1) / 2 of them.

    Parameters
    ----------
    particles
        Any sequence; one that reads its particles when they are asked for is asked for each once a block.
    settings
        Of every alignment; a local search is refused, since no pair has a start.
    rng
        Draws the candidates of a stochastic search or a drawn pool, which need it.
    n_threads
        Results do not depend on it.
    memory_bytes
        What the prepared references of a block may take; more memory, fewer blocks. Results do not depend on it.
    progress
        Called with the pairs that are done and all of them.
    device
        Where alignments are computed, as for an ``Aligner``.

    Yields
    ------
    Within a block of references, target after target. Results are not held.

    Raises
    ------
    ValueError
        A local search, a missing ``rng``, particles that cannot be compared, a card that is not there.
    """
    settings = Settings() if settings is None else settings
    if settings.search == "local":
        raise ValueError("a local search needs a start for each pair: use Aligner(...).align_many(..., starts=poses)")
    n = len(particles)
    # A generator for each pair, whatever the blocks: drawn here, once.
    seeds = None if rng is None else rng.integers(2**63, size=(n, n))
    first, done = 0, 0
    card = device_for(device, draws=settings.draws)
    while first < n - 1:
        block = _block(particles, settings, first, n_threads, memory_bytes)
        if card is not None:
            for found in _on(card, block, particles, first, n_threads):
                done += 1
                yield found
                if progress:
                    progress(done, n * (n - 1) // 2)
            first += len(block)
            continue
        work = partial(_against, block, particles, first, seeds)
        for some in in_order(work, ((target,) for target in range(first + 1, n)), n_threads):
            done += len(some)
            yield from some
            if progress:
                progress(done, n * (n - 1) // 2)
        first += len(block)


def _on(
    card: Device, block: list[Aligner], particles: Sequence[Subtomogram], first: int, n_threads: int
) -> Iterator[PairResult]:
    """All targets against a block of references on a card: prepared in threads here, searched there."""
    numbers: deque[tuple[int, int]] = deque()

    def prepared(target: int) -> tuple[int, Subtomogram, list[Pair]]:
        particle, kept = particles[target], {}  # type: ignore[var-annotated]
        return target, particle, [aligner.prepare(particle, kept=kept) for aligner in block[: target - first]]

    def asked() -> Iterator[Asking[Result]]:
        targets = ((target,) for target in range(first + 1, len(particles)))
        for target, particle, pairs in in_order(prepared, targets, n_threads, processes=False):
            for reference, (aligner, pair) in enumerate(zip(block, pairs, strict=False), start=first):
                numbers.append((reference, target))
                yield aligner.ask(particle, pair)

    for result in results(asked(), card):
        yield PairResult(*numbers.popleft(), result)


def _block(
    particles: Sequence[Subtomogram], settings: Settings, first: int, n_threads: int, memory_bytes: float
) -> list[Aligner]:
    """The references from ``first`` on that memory holds, at least one."""
    one = Aligner(particles[first], settings)
    size = int(np.clip(memory_bytes // max(WITH_SEEDS * one.memory_bytes, 1), 1, len(particles) - 1 - first))
    others = ((i,) for i in range(first + 1, first + size))
    # In threads: what is prepared has to be here.
    return [one, *in_order(partial(_aligner, particles, settings), others, n_threads, processes=False)]


def _aligner(particles: Sequence[Subtomogram], settings: Settings, index: int) -> Aligner:
    return Aligner(particles[index], settings)


def _against(
    block: list[Aligner],
    particles: Sequence[Subtomogram],
    first: int,
    seeds: np.ndarray | None,
    target: int,
) -> list[PairResult]:
    """A target against the references of a block that come before it."""
    particle, kept = particles[target], {}  # type: ignore[var-annotated]
    results = []
    for reference, aligner in enumerate(block[: target - first], start=first):
        rng = None if seeds is None else np.random.default_rng(seeds[reference, target])
        results.append(PairResult(reference, target, aligner.align(particle, rng=rng, kept=kept)))
    return results
