"""What a GPU computes is what the CPU computes: run by ``test_cuda``, under Numba's simulator of one.

Blocks have 4 threads here and particles 16 voxels, since every thread is one of Python. Sums of n float32 samples that
are taken in another order differ by some sqrt(n) of 6e-8 of their terms; ROUNDING allows ten times that for 200.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from numba.cuda.simulator.kernel import BlockManager, BlockThread
from numba.cuda.simulator.kernelapi import FakeCUDAShared
from numba.np.numpy_support import as_dtype
from scipy.spatial.transform import Rotation

import gonio
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume, moved
from gonio.fourier.spectrum import Spectrum
from gonio.kernels import gpu_memory as gpus
from gonio.kernels.cuda import kernels
from gonio.kernels.cuda_samples import SIMULATED
from gonio.kernels.marquardt import NO_OVERLAP
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Subtomogram, Volume
from gonio.particle.wedge import NoWedge, SingleAxisWedge, WeightVolumeWedge
from gonio.search import cpu
from gonio.search import levenberg_marquardt as lm
from gonio.search.backend import Backend, BestShifts, Evaluation, Found, PairSearch, Refinement
from gonio.search.batch_task import BatchTask
from gonio.search.coarse_to_fine import STACK_PRUNING, Plan, PruningRule, PruningRules, conduct
from gonio.search.cpu import Cpu
from gonio.search.gpu import stages
from gonio.search.gpu.device import Device
from gonio.search.gpu.dispatch import NORMAL_EQUATIONS
from gonio.search.gpu.multi_gpu import OneGpu, executor_for
from gonio.search.objective import pack, poses_of
from gonio.search.search_space import about_normals, near
from oracle import Blobs

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ceilings
import gpu as gpu_benchmark
import without_gpu

assert SIMULATED, "set NUMBA_ENABLE_CUDASIM=1"


def run_in_turns(manager: BlockManager, grid_point: tuple, *arguments) -> None:
    """Run the threads of a block, one at a time, each to its next barrier; in every second block, and after every
    second barrier, the last one first.

    So a number that one thread writes and another reads without waiting is wrong, and always is. Numba's own looks at
    all threads in a loop, for which they have to stop: six times the work.
    """
    threads = [
        BlockThread(partial(manager._f, *arguments), manager, grid_point, place, manager._debug)
        for place in np.ndindex(*manager._block_dim)
    ]
    for thread in threads:
        thread.turn, thread.turn_ends = Lock(), Lock()
        thread.turn.acquire()
        thread.turn_ends.acquire()
        thread.start()
    living = threads[::-1] if grid_point[0] % 2 else threads
    while living:
        for thread in living:
            thread.turn.release()
            thread.turn_ends.acquire()
            if thread.exception:
                raise thread.exception[0].with_traceback(thread.exception[1])
        living = [thread for thread in reversed(living) if not thread.ended]


def run_to_the_end(thread: BlockThread, run=BlockThread.run) -> None:
    thread.ended = False
    thread.turn.acquire()
    run(thread)
    thread.ended = True
    thread.turn_ends.release()


def end_turn(thread: BlockThread) -> None:
    thread.turn_ends.release()
    thread.turn.acquire()


def shared_array(shared: FakeCUDAShared, shape, dtype, alignment=None) -> np.ndarray:
    """Make the array of a line for the first thread that comes to it, and give it to the others.

    Numba's own reads the sources of all callers to know the line.
    """
    caller = sys._getframe(1)
    line = caller.f_code, caller.f_lineno
    if line not in shared._allocations:
        shared._allocations[line] = np.empty(shape, as_dtype(dtype))
    return shared._allocations[line]


BlockManager.run, BlockThread.run, BlockThread.syncthreads = run_in_turns, run_to_the_end, end_turn
FakeCUDAShared.array = shared_array

ROUNDING = 1e-5
N, VOXEL, LIMIT, THREADS = 16, 10.0, 4.0, 4
# A dissimilarity is known to 3e-7, the rounding of float32 sums of one, and no step goes where it falls by less. It
# rises by (2 pi k r / n)^2 times the square of an angle, with k the shells that count, 2, and r how far the blobs are
# from their weakest axis, 0.97 voxels rms: two searches may end this far apart, here 0.08 degrees.
FLAT_DEG = np.degrees(2.0 * np.sqrt(3e-7) / (2.0 * np.pi * 2.0 * 0.97 / N))
# A shift is told as well as a turn that moves something as far.
FLAT_ANGSTROM = 2.0 * np.sqrt(3e-7) / (2.0 * np.pi * 2.0 / N) * VOXEL
WEDGES = {
    "full": NoWedge(),
    "tilted": SingleAxisWedge(-60, 50),
    "narrow": SingleAxisWedge(-20, 15),
    "weights": WeightVolumeWedge(np.random.default_rng(1).uniform(0, 1, (N, N, N)), VOXEL),
}
POSES = gonio.Pose.random(3, rng=np.random.default_rng(5), max_shift_angstrom=2 * VOXEL)
POINTS = pack(POSES.matrix, POSES.shift_angstrom)
wedges = pytest.mark.parametrize("wedge", ["full", "tilted", "weights"])
scores = pytest.mark.parametrize("score", list(Score))


@pytest.fixture(scope="module")
def gpu() -> Device:
    return Device(gpus.Gpu(threads=THREADS))


@pytest.fixture(scope="module")
def small_gpu() -> Device:
    """Of blocks that whole alignments do not take long with."""
    return Device(gpus.Gpu(threads=2))


@cache
def particle(seed: int, wedge: str = "tilted", noise: float = 0.2) -> Subtomogram:
    data = Blobs.random(seed).volume(N) + noise * np.random.default_rng(seed).normal(size=(N, N, N))
    return Subtomogram(Volume(data, VOXEL), WEDGES[wedge], normal_xyz=np.array([0.0, 0.0, 1.0]))


def comparison(wedge: str, score: Score, seed: int = 1) -> Comparison:
    target = Spectrum.of(particle(seed), limit=LIMIT)
    reference = FourierVolume.of(particle(seed + 10).volume, wedge=WEDGES[wedge], limit=LIMIT)
    shells, power = np.arange(target.n_shells), target.shell_power()
    rho = 0.9 * np.exp(-((shells / 5.0) ** 2))
    return Comparison(target, reference, score=score, expected_fsc=ExpectedFsc(rho, power, power, 0.3 * rho))


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """To the rounding of the largest."""
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    scale = np.abs(wanted[finite]).max(initial=1e-30)
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=0, atol=ROUNDING * scale)


@wedges
@scores
def test_normal_equations_are_those_of_the_cpu(gpu, wedge, score):
    (found,), (wanted,) = (one.normal_equations([Evaluation(comparison(wedge, score), POINTS)]) for one in (gpu, Cpu()))
    for name in ("dissimilarity", "hessian", "descent", "overlap"):
        assert_close(getattr(found, name), getattr(wanted, name))


@wedges
def test_sums_of_shells_are_those_of_the_cpu(gpu, wedge):
    at_points = [Evaluation(comparison(wedge, Score.FCS), POINTS)]
    assert_close(gpu.shell_sums(at_points)[0], Cpu().shell_sums(at_points)[0])
    assert_close(gpu.shell_equations(at_points)[0], Cpu().shell_equations(at_points)[0])


@wedges
def test_best_shifts_are_those_of_the_cpu(gpu, wedge):
    seeds = BestShifts(comparison(wedge, Score.RCS), POSES.matrix, 2.0 * VOXEL)
    (found,), (wanted,) = gpu.best_shifts([seeds]), Cpu().best_shifts([seeds])
    np.testing.assert_array_equal(found[0], wanted[0])
    assert_close(found[1], wanted[1])


def test_best_shifts_of_samples_off_the_grid_are_those_of_the_cpu(gpu):
    compared = comparison("tilted", Score.RCS)
    target = compared.target
    turned = (Rotation.from_rotvec([0.1, 0.2, -0.1]).as_matrix() @ target.frequency_xyz).astype(np.float32)
    off = Spectrum(turned, target.value, target.transfer, target.weight, N, VOXEL, target.limit, on_grid=False)
    seeds = BestShifts(Comparison(off, compared.reference, score=Score.RCS), POSES.matrix, 1.5 * VOXEL)
    (found,), (wanted,) = gpu.best_shifts([seeds]), Cpu().best_shifts([seeds])
    np.testing.assert_array_equal(found[0], wanted[0])
    assert_close(found[1], wanted[1])


def frames() -> dict:
    target, start = particle(1), POSES[0]
    prior = {"max_rotation_deg": 20.0, "prior_rotation_sd_deg": 3.0, "prior_shift_sd_angstrom": 5.0}
    axis = gonio.Settings(search="axis"), gonio.Settings(search=gonio.AxisSearch(4.0))
    return {
        "free": near(target, start, gonio.Settings(search="local"), spacing_deg=None),
        "prior": near(target, start, gonio.Settings(search=gonio.LocalSearch(**prior)), spacing_deg=None),
        "axis": about_normals(target, particle(11), axis[0], spacing_deg=None),
        "axis, prior": about_normals(
            target, particle(11), gonio.Settings(search=gonio.AxisSearch(4.0)), spacing_deg=None
        ),
    }


@pytest.mark.parametrize("frame", list(frames()))
@pytest.mark.parametrize("score", [Score.RCS, Score.LIKELIHOOD])
def test_refinements_are_those_of_the_cpu(gpu, frame, score):
    # Two steps: rounding is not yet told apart by which of two nearly equal values is smaller.
    problem = frames()[frame].pose_problem(comparison("tilted", score), samples_per_independent=1.5)
    (found,), (wanted,) = (one.refine([Refinement(problem, POINTS[:2], 2)]) for one in (gpu, Cpu()))
    np.testing.assert_array_equal(found.code, wanted.code)
    np.testing.assert_array_equal(found.iterations, wanted.iterations)
    for name in ("points", "dissimilarity", "hessian", "descent", "damping", "growth"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-3, atol=1e-3)


def test_a_refinement_that_starts_without_overlap_says_so(gpu):
    frame = frames()["free"]
    nowhere = POINTS[:1].copy()
    nowhere[0, 9] = 1e4  # beyond the largest shift
    refinement = Refinement(frame.pose_problem(comparison("tilted", Score.RCS)), nowhere, 3)
    (found,), (wanted,) = gpu.refine([refinement]), Cpu().refine([refinement])
    assert found.status == wanted.status and found.iterations[0] == wanted.iterations[0] == 0


def mixed(copies: int = 1) -> dict[str, list]:
    """Work of every kind but searches, by the method of a backend that does it."""
    one, two = comparison("tilted", Score.RCS), comparison("weights", Score.FCS, seed=2)
    work = {
        "normal_equations": [Evaluation(one, POINTS), Evaluation(two, POINTS)],
        "shell_sums": [Evaluation(two, POINTS[:1]), Evaluation(one, POINTS)],
        "shell_equations": [Evaluation(one, POINTS[1:2]), Evaluation(two, POINTS[:1])],
        "best_shifts": [BestShifts(one, POSES.matrix[:1], VOXEL), BestShifts(two, POSES.matrix[:2], VOXEL)],
    }
    return {name: copies * pieces for name, pieces in work.items()}


def done(backend: Backend, work: dict[str, list]) -> list:
    """All answers."""
    return [answer for name, pieces in work.items() for answer in getattr(backend, name)(pieces)]


def one_by_one(backend: Backend, work: dict[str, list]) -> list:
    """All answers, each piece of work done by itself."""
    return [answer for name, pieces in work.items() for piece in pieces for answer in getattr(backend, name)([piece])]


def same_bits(first: list, second: list) -> bool:
    def flat(answer) -> list:
        if isinstance(answer, np.ndarray):
            return [answer]
        return list(answer) if isinstance(answer, tuple) else list(vars(answer).values())

    return all(
        np.array_equal(a, b, equal_nan=True) for one, two in zip(first, second, strict=True)
        for a, b in zip(flat(one), flat(two), strict=True)
    )  # fmt: skip


def test_answers_do_not_depend_on_what_else_is_done(gpu):
    together = done(gpu, mixed())
    assert same_bits(together, one_by_one(gpu, mixed())) and same_bits(together, done(gpu, mixed()))


def test_work_that_memory_does_not_hold_is_halved_and_goes_on(gpu, monkeypatch):
    taken, refused = [], []
    wanted, empty, most = done(gpu, mixed()), gpu.gpu.empty, np.inf

    def small(shape, dtype, queue):
        array = empty(shape, dtype, queue)
        taken.append(sum(len(block) for block in queue.blocks))
        if taken[-1] > most:
            refused.append(shape)
            raise gpus.OutOfMemory
        return array

    monkeypatch.setattr(gpu.gpu, "empty", small)
    one_by_one(gpu, mixed())
    most = max(taken)  # what any of them takes alone
    twice = [answer for i in range(0, len(wanted), 2) for answer in 2 * wanted[i : i + 2]]  # there are two of each kind
    assert same_bits(done(gpu, mixed()), wanted) and same_bits(done(gpu, mixed(copies=2)), twice) and refused


def test_memory_is_used_again(gpu, monkeypatch):
    done(gpu, mixed())
    monkeypatch.setattr(gpu.gpu, "_allocated", lambda length: pytest.fail(f"{length} bytes more"))
    done(gpu, mixed())


def test_launches_are_as_large_as_free_memory_allows(gpu, monkeypatch):
    evaluations, blocks = [Evaluation(comparison("full", Score.RCS), POINTS[[i % 3]]) for i in range(6)], []
    wanted, launch = gpu.normal_equations(evaluations), gpu.gpu.launch
    most = 2.5 * NORMAL_EQUATIONS.size(evaluations[0])
    monkeypatch.setattr(gpus.Gpu, "launch_bytes", most)
    monkeypatch.setattr(gpu.gpu, "launch", lambda kernel, n, *rest: blocks.append(n) or launch(kernel, n, *rest))
    assert same_bits(gpu.normal_equations(evaluations), wanted) and blocks == [2, 2, 2]


def test_a_pair_that_does_not_fit_alone_is_one_clear_error(gpu, monkeypatch):
    def never(shape, dtype, queue):
        raise gpus.OutOfMemory

    monkeypatch.setattr(gpu.gpu, "empty", never)
    with pytest.raises(MemoryError, match="not enough memory for a single pair: use device='cpu'"):
        done(gpu, mixed())


def test_long_arrays_begin_anew_when_they_are_full(monkeypatch):
    monkeypatch.setattr(gpus, "FIRST_LENGTH", 8)
    small = Device(gpus.Gpu(threads=THREADS))
    for seed in range(1, 5):
        at_point = [Evaluation(comparison("tilted", Score.FCS, seed=seed), POINTS[:1])]
        assert_close(small.shell_sums(at_point)[0], Cpu().shell_sums(at_point)[0])
    kept = small.gpu._kept["grids"]
    assert len(kept._places) < 4, "the oldest went"


def test_threads_of_a_block_are_a_power_of_two():
    with pytest.raises(ValueError, match="power of two, got 6"):
        kernels(6)


def aligner(search: str, **settings) -> gonio.Aligner:
    lengths = {"resolution_angstrom": 40.0, "particle_diameter_angstrom": 90.0, "max_shift_angstrom": 10.0}
    lengths["tolerance_angstrom"] = 1e-3  # what is left of a refinement must not decide
    return gonio.Aligner(particle(7, noise=0.05), gonio.Settings(search=search, **lengths, **settings))


def assert_alike(found: list, wanted: list) -> None:
    """The same optimum, as far as rounding lets it be told (FLAT_DEG)."""
    for one, two in zip(found, wanted, strict=True):
        angle = np.degrees((one.pose.rotation * two.pose.rotation.inv()).magnitude())
        assert angle < FLAT_DEG and np.abs(one.pose.shift_angstrom - two.pose.shift_angstrom).max() < FLAT_ANGSTROM
        assert one.status.ok == two.status.ok and len(one.runners_up) == len(two.runners_up)
        sd = np.sqrt(np.diag(two.covariance))  # zero along what an axis search keeps
        assert np.all(np.abs(one.covariance - two.covariance) <= 0.02 * np.outer(sd, sd) + 1e-12)


# Searches from coarse to fine: what is told of the pair, and of the search.
PAIRS: dict[str, dict] = {
    "plain": {},
    "expected": {"before": True, "samples_per_independent": 1.5},
    "c_ref": {"before": True, "c_ref": True},
    "exact": {"exact": True},
    "narrow": {"before": True, "wedge": "narrow"},
}
TOLD = gonio.Settings(search=gonio.LocalSearch(10.0, 8.0, 40.0))
SEARCHES: dict[str, tuple[str, str, dict]] = {
    "axis": ("expected", "axis", {}),
    "axis, exact": ("exact", "axis", {}),
    "axis, nothing expected": ("plain", "axis", {"score": Score.FCS}),
    "axis, ceiling, FCS, prior": ("c_ref", "axis, prior", {"score": Score.FCS}),
    "axis, likelihood, prior": ("expected", "axis, prior", {"score": Score.LIKELIHOOD}),
    "axis, known": ("expected", "axis", {"known": True}),
    "axis, symmetry": ("expected", "axis", {"symmetry": "C2"}),
    "axis, looks, exact": ("exact", "axis", {"neighbour_search": True}),
    "cone, prior": ("expected", "cone", {"score": Score.LIKELIHOOD}),
    "cone, exact": ("exact", "cone", {}),
    "start": ("expected", "start", {}),
    "start, exact": ("exact", "start", {"score": Score.FCS}),
}


# Fewer poses than the default keeps: the simulator takes as long for every pose more.
FEW = PruningRules(
    seeds=PruningRule(1.6, 12, 32, steps=2),
    between=(PruningRule(1.2, 8, 16, steps=2), PruningRule(0.9, 6, 12, steps=4)),
    full=PruningRule(0.9, 4, 8, steps=3),
    neighbours=PruningRule(0.9, 4, 8, steps=0),
)


def pair_search(name: str, seed: int, limit: float = LIMIT, off_grid: bool = False) -> PairSearch:
    """A target and the reference that it shows, turned and moved a little."""
    told, where, asked = (SEARCHES | {"narrow": ("narrow", "axis", {})})[name]
    kind, start = PAIRS[told], gonio.Pose(Rotation.from_rotvec([0.02, 0.05, 0.3 * seed]), np.array([3.0, -5.0, 2.0]))
    true = gonio.Pose(Rotation.from_rotvec([0.0, 0.0, 0.3 * seed]), np.array([0.0, -6.0, 4.0]))
    data = moved(particle(7, noise=0.0).volume, true.matrix, true.shift_angstrom).data
    noisy = Volume(data + 0.2 * np.random.default_rng(seed).normal(size=data.shape), VOXEL)
    wedge = WEDGES[kind.get("wedge", "tilted")]
    target = Subtomogram(noisy, wedge, normal_xyz=np.array([0.0, 0.0, 1.0]))
    samples = Spectrum.of(target, limit=limit)
    if off_grid:
        samples = replace(samples, on_grid=False)
    reference = FourierVolume.of(
        particle(7, noise=0.0).volume, wedge=WEDGES["full"] if kind.get("exact") else wedge, limit=limit
    )
    shells, power = np.arange(samples.n_shells), samples.shell_power()
    rho = 0.95 * np.exp(-((shells / 6.0) ** 2))
    expected = ExpectedFsc(rho, power, power, 0.0 * rho)
    pair = Pair(
        samples,
        reference,
        samples_per_independent=kind.get("samples_per_independent", 1.0),
        c_ref=0.9 - 0.05 * shells if kind.get("c_ref") else None,
        before=expected if kind.get("before") else None,
        exact=kind.get("exact", False),
    )
    plan = Plan.of(limit=limit, diameter_fraction=0.9)
    settings = gonio.Settings(search="axis", max_shift_angstrom=15.0)
    frame = {
        "axis": lambda: about_normals(target, target, settings, spacing_deg=plan.spacing_deg),
        "axis, prior": lambda: about_normals(
            target, target, replace(settings, search=gonio.AxisSearch(6.0)), spacing_deg=30.0
        ),
        "cone": lambda: near(target, start, TOLD, spacing_deg=15.0),
        "start": lambda: near(target, start, gonio.Settings(search="local"), spacing_deg=None),
    }[where]()
    if len(frame.rotations) == 1:
        plan = replace(plan, limits=plan.limits[-1:])
    return PairSearch(
        pair,
        replace(frame, tolerance_angstrom=1e-3),  # what is left of a refinement must not decide
        plan,
        asked.get("score", Score.RCS),
        group=Symmetry.named(asked.get("symmetry", "C1")).matrices,
        last_steps=30,
        pruning=FEW,
        neighbour_search=asked.get("neighbour_search", False),
        expected_fsc=ExpectedFsc(rho[:3], power[:3], power[:3], 0.1 * rho[:3]).in_shells(None, samples.n_shells)
        if asked.get("known")
        else None,
    )


def assert_found(found: Found, wanted: Found, name: str) -> None:
    """The same optimum, as far as rounding lets it be told (FLAT_DEG); and what is told of it."""
    one, two = (poses_of(f.points) for f in (found, wanted))
    # Twice: where wedges have edges, samples that cross one move the optimum too.
    assert one[0].rotation_distance_deg(two[0]) < 2.0 * FLAT_DEG, name
    assert np.abs(one[0].shift_angstrom - two[0].shift_angstrom).max() < 2.0 * FLAT_ANGSTROM, name
    assert found.status.ok == wanted.status.ok and len(found.points) == len(wanted.points), name
    assert abs(found.iterations - wanted.iterations) <= 0.2 * wanted.iterations + 5, name
    for one, two in ((found.dissimilarity, wanted.dissimilarity), (found.choice, wanted.choice)):
        # Within that a sample or two cross the edge of a wedge.
        np.testing.assert_allclose(one[0], two[0], rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(found.expected_fsc.table, wanted.expected_fsc.table, rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(found.expected_fsc.contrast, wanted.expected_fsc.contrast, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(found.overlap, wanted.overlap, rtol=0.02, err_msg=name)
    for one, two in (
        (found.curvature.follow, wanted.curvature.follow),
        (found.curvature.scatter, wanted.curvature.scatter),
    ):
        np.testing.assert_allclose(one, two, rtol=0, atol=0.02 * np.abs(two).max(), err_msg=name)


@pytest.mark.parametrize("name", list(SEARCHES))
def test_searches_find_what_the_cpu_finds(small_gpu, name):
    """Two together, of other limits."""
    searches = [pair_search(name, 1), pair_search(name, 2, limit=5.0)]
    for one, two in zip(small_gpu.search(searches), Cpu().search(searches), strict=True):
        assert_found(one, two, name)


class Both:
    """Stages of one search on a GPU and on the CPU, compared after each."""

    def __init__(self, search: PairSearch, gpu: gpus.Gpu) -> None:
        self._gpu, self._queue = gpu, gpu.queue()
        self.on_gpu, self.on_cpu = stages._OnGpu(gpu, [search], self._queue), cpu._OnCpu(search)

    def __getattr__(self, stage: str):
        def done(*arguments) -> None:
            for one in (self.on_gpu, self.on_cpu):
                getattr(one, stage)(*arguments)
            self._compare(stage)

        return done

    def _down(self, array) -> np.ndarray:
        return self._gpu.down(array, self._queue)

    def _compare(self, stage: str) -> None:
        one, two = self.on_gpu, self.on_cpu
        if stage == "seed":
            np.testing.assert_allclose(self._down(one._chance), two._chance, rtol=0, atol=1e-4)
            assert_close(self._down(one._seeds[0]), two._points)
            if len(two._values):
                assert_close(self._down(one._seeds[1]), two._values)
            return
        if stage == "expect":
            if two._known is None:
                np.testing.assert_allclose(self._down(one._now[0]), two._expected_fsc.table, rtol=1e-3, atol=1e-4)
            return
        count = int(self._down(one._counts)[0])
        assert count == len(two._points) <= one._most
        if stage == "keep_seeds":
            np.testing.assert_allclose(self._down(one._deviation)[0], two._deviation, rtol=1e-4)
        points, values, codes, choices = (self._down(array)[:count] for array in one._pool)
        np.testing.assert_allclose(points, two._points, rtol=0, atol=0.02, err_msg=stage)
        if stage in ("refine", "keep", "choose", "converge"):
            np.testing.assert_allclose(values, two._values, rtol=1e-3, atol=1e-4, err_msg=stage)
            np.testing.assert_array_equal(codes == NO_OVERLAP, two._codes == NO_OVERLAP)
        if stage == "choose":
            np.testing.assert_allclose(choices, two._choice, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", list(SEARCHES))
def test_every_stage_does_what_the_cpu_does(small_gpu, name):
    search = pair_search(name, 1)
    with small_gpu.gpu.used():
        conduct(Both(search, small_gpu.gpu), search.course)


@pytest.mark.parametrize(
    "cut", [STACK_PRUNING.seeds, PruningRule(0.5, 2, 5, 1), PruningRule(9.0, 1, 3, 1), PruningRule(9.0, 1, 99, 1)]
)
def test_seeds_without_overlap_are_the_last(small_gpu, cut):
    search = pair_search("narrow", 1)
    turns = Rotation.from_rotvec(np.outer(np.linspace(0.0, np.pi, 30), [0.6, 0.8, 0.0])).as_matrix()
    search = replace(search, frame=replace(search.frame, rotations=turns))
    with small_gpu.gpu.used():
        both = Both(search, small_gpu.gpu)
        both.seed()
        assert 0 < np.isinf(both.on_cpu._values).sum() < 30
        both.keep_seeds(cut)


def test_searches_off_the_grid_find_what_the_cpu_finds(small_gpu):
    search = pair_search("axis, exact", 1, off_grid=True)
    assert_found(small_gpu.search([search])[0], Cpu().search([search])[0], "off the grid")


def test_searches_do_not_depend_on_what_else_is_done(small_gpu):
    searches = [pair_search(name, seed) for name in ("start", "start, exact") for seed in (1, 2)]
    together, alone = small_gpu.search(searches), [small_gpu.search([search])[0] for search in searches]
    for one, two in zip(together, alone, strict=True):
        for name in ("points", "dissimilarity", "choice", "iterations", "overlap"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        np.testing.assert_array_equal(one.curvature.follow, two.curvature.follow)


def test_candidates_that_are_drawn_are_drawn_by_the_cpu(small_gpu):
    """In the order of the searches, beside those that the GPU does."""
    drawn = []

    def minimise(comparison, points, steps):
        drawn.append(steps)
        return lm.minimise(
            other.frame.problem(comparison, samples_per_independent=other.pair.samples_per_independent),
            points,
            max_iterations=steps,
        )

    other = pair_search("start", 1)
    search = replace(other, minimise=minimise)
    found = small_gpu.search([other, search])
    assert drawn
    (wanted,) = Cpu().search([search])
    for name in ("points", "dissimilarity", "choice", "iterations"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(wanted, name))
    assert_found(found[0], wanted, "beside it")


def test_searches_that_make_no_sense_are_refused():
    search = pair_search("axis", 1)
    with pytest.raises(ValueError, match="several starts need a coarser limit"):
        replace(search, plan=replace(search.plan, limits=(4.0,)))
    with pytest.raises(ValueError, match="the expected FSC has 3 shells, the target has 5"):
        replace(search, expected_fsc=pair_search("axis, known", 1).expected_fsc.in_shells(None, 3))


def test_nothing_is_waited_for_between_the_stages_of_a_search(small_gpu, monkeypatch):
    """All launches are given to the GPU before anything comes down."""
    said = []
    launch, down = small_gpu.gpu.launch, small_gpu.gpu.down
    monkeypatch.setattr(small_gpu.gpu, "launch", lambda *rest: said.append("launch") or launch(*rest))
    monkeypatch.setattr(small_gpu.gpu, "down", lambda *rest: said.append("down") or down(*rest))
    small_gpu.search([pair_search("start", seed) for seed in (1, 2)])
    assert said == sorted(said, key=["launch", "down"].index) and {"launch", "down"} == set(said)


@pytest.mark.parametrize("search", ["local", "axis", "coarse_to_fine"])
def test_whole_alignments_find_what_the_cpu_finds(small_gpu, search):
    targets = [particle(7, noise=0.1), particle(7, noise=0.3)][: 1 if search == "coarse_to_fine" else 2]
    starts = gonio.Pose(Rotation.from_rotvec([[0.05, 0.0, 0.1], [0.0, -0.1, 0.05]]), np.full((2, 3), 3.0))
    given = {"starts": starts} if search == "local" else {}
    wanted = aligner(search).align_many(targets, **given)
    on_gpu = gonio.Aligner(particle(7, noise=0.05), aligner(search).settings, device=small_gpu)
    assert on_gpu.device == "cuda:0 (simulated GPU)"
    assert_alike(on_gpu.align_many(targets, **given), wanted)


def test_all_pairs_find_what_the_cpu_finds(small_gpu):
    particles = [particle(7, noise=noise) for noise in (0.05, 0.1)]
    settings = aligner("axis").settings
    wanted = list(gonio.align_all_pairs(particles, settings))
    found = list(gonio.align_all_pairs(particles, settings, executor=OneGpu(small_gpu)))
    assert [(p.reference, p.target) for p in found] == [(p.reference, p.target) for p in wanted]
    assert_alike([p.result for p in found], [p.result for p in wanted])


def test_the_benchmark_measures_each_thing_once(small_gpu):
    """Boxes are of 32 there."""
    extent = gpu_benchmark.Extent(boxes=(32,), targets=2, poses=2, set_size=2, many=2, on_cpu=1, rounds=1)
    most = ceilings.measured(small_gpu.gpu, rounds=1, blocks=2, threads=2, size=1 << 10)
    rows = gpu_benchmark.kernel_rows(small_gpu, 32, extent, most) + gpu_benchmark.set_rows(small_gpu, extent, most)
    assert all(row.seconds is None or row.seconds > 0 for row in rows)
    (told,) = gpu_benchmark.memory_rows(small_gpu, extent)
    assert re.fullmatch(r"1 particles: .* ms each, .* MB free after; 2 particles: .* MB free after", told.note)


def test_what_is_said_without_a_gpu_is_measured():
    rows = without_gpu.feeding(2, set_size=3)
    assert [row.per for row in rows[::2]] == ["search"] * 3 and all(row.seconds > 0 for row in rows[::2])
    (told,) = without_gpu.agreement(2, 2, ("local",))
    assert re.match(r"\d+ % of 2 within 0.01 degree and 0.001 voxel, 100 % the same optimum", told.note)


class Sums(BatchTask[Evaluation, np.ndarray]):
    """A task whose items are sums of shells."""

    def prepare(self, item: int) -> Evaluation:
        return Evaluation(comparison("tilted", Score.FCS, seed=1 + item % 3), POINTS[[item % 3]])

    def finish(self, prepared: list[Evaluation], backend: Backend) -> list[np.ndarray]:
        return backend.shell_sums(prepared)


def test_workers_with_a_gpu_each_compute_what_one_gpu_computes():
    # The simulator has one GPU: two processes take it.
    alone = list(executor_for("cuda")("sums", Sums(), 7))
    with executor_for("cuda:0,cuda:0", n_threads=2) as two:
        assert two.name == "cuda:0 (simulated GPU), cuda:0 (simulated GPU)"
        together = list(two("sums", Sums(), 7))
    assert same_bits(together, alone)
    for item, found in enumerate(alone):
        assert_close(found, Sums()(item))


def test_threads_take_turns_at_a_gpu(gpu):
    """What each is answered is what it is answered alone."""
    work = mixed()
    wanted = done(gpu, work)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: done(gpu, work), range(4)):
            assert same_bits(found, wanted)
