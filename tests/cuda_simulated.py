"""What a graphics card computes is what the CPU computes: run by ``test_cuda``, under Numba's simulator of one.

Blocks have 4 threads here and particles 16 voxels, since every thread is one of Python. Sums of n float32 samples that
are taken in another order differ by some sqrt(n) of 6e-8 of their terms; ROUNDING allows ten times that for 200.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio.cards import cards_for
from gonio.device import Device, results
from gonio.evaluation import BestShifts, Equations, Refinement, ShellMatrices, ShellSums, answered
from gonio.expectation import Expectation
from gonio.fourier import FourierVolume, Spectrum
from gonio.frame import about_normals, near
from gonio.kernels import card as cards
from gonio.kernels.cuda import SIMULATED, kernels
from gonio.launches import bytes_of
from gonio.problem import pack
from gonio.score import Comparison, Score
from gonio.volume import Subtomogram, Volume
from gonio.wedge import NoWedge, SingleAxisWedge, WeightVolumeWedge
from oracle import Blobs

assert SIMULATED, "set NUMBA_ENABLE_CUDASIM=1"

ROUNDING = 1e-5
N, VOXEL, LIMIT, THREADS = 16, 10.0, 4.0, 4
# A dissimilarity is known to 3e-7, the rounding of float32 sums of one, and no step goes where it falls by less. It
# rises by (2 pi k r / n)^2 times the square of an angle, with k the shells that count, 2, and r how far the blobs are
# from their weakest axis, 0.97 voxels rms: two searches may end this far apart, here 0.08 degrees.
FLAT_DEG = np.degrees(2.0 * np.sqrt(3e-7) / (2.0 * np.pi * 2.0 * 0.97 / N))
WEDGES = {
    "full": NoWedge(),
    "tilted": SingleAxisWedge(-60, 50),
    "weights": WeightVolumeWedge(np.random.default_rng(1).uniform(0, 1, (N, N, N)), VOXEL),
}
POSES = gonio.Pose.random(3, rng=np.random.default_rng(5), max_shift_angstrom=2 * VOXEL)
POINTS = pack(POSES.matrix, POSES.shift_angstrom)
wedges = pytest.mark.parametrize("wedge", list(WEDGES))
scores = pytest.mark.parametrize("score", list(Score))


@pytest.fixture(scope="module")
def card() -> Device:
    return Device(cards.Card(threads=THREADS))


@pytest.fixture(scope="module")
def small_card() -> Device:
    """Of blocks that whole alignments do not take long with."""
    return Device(cards.Card(threads=2))


@cache
def particle(seed: int, wedge: str = "tilted", noise: float = 0.2) -> Subtomogram:
    data = Blobs.random(seed).volume(N) + noise * np.random.default_rng(seed).normal(size=(N, N, N))
    return Subtomogram(Volume(data, VOXEL), WEDGES[wedge], normal_xyz=np.array([0.0, 0.0, 1.0]))


def comparison(wedge: str, score: Score, seed: int = 1) -> Comparison:
    target = Spectrum.of(particle(seed), limit=LIMIT)
    reference = FourierVolume.of(particle(seed + 10).volume, wedge=WEDGES[wedge], limit=LIMIT)
    shells, power = np.arange(target.n_shells), target.shell_power()
    rho = 0.9 * np.exp(-((shells / 5.0) ** 2))
    return Comparison(target, reference, score=score, expectation=Expectation(rho, power, power, 0.3 * rho))


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """To the rounding of the largest."""
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    scale = np.abs(wanted[finite]).max(initial=1e-30)
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=0, atol=ROUNDING * scale)


@wedges
@scores
def test_normal_equations_are_those_of_the_cpu(card, wedge, score):
    request = Equations(comparison(wedge, score), POINTS)
    (found,), wanted = card.answers([request]), request.answer()
    for name in ("dissimilarity", "hessian", "descent", "overlap"):
        assert_close(getattr(found, name), getattr(wanted, name))


@wedges
def test_sums_of_shells_are_those_of_the_cpu(card, wedge):
    compared = comparison(wedge, Score.FCS)
    sums, matrices = ShellSums(compared, POINTS), ShellMatrices(compared, POINTS[0])
    found = card.answers([sums, matrices])
    assert_close(found[0], sums.answer())
    for one, other in zip(found[1], matrices.answer(), strict=True):
        assert_close(one, other)


@wedges
def test_best_shifts_are_those_of_the_cpu(card, wedge):
    request = BestShifts(comparison(wedge, Score.RCS), POSES.matrix, 2.0 * VOXEL)
    (found,), wanted = card.answers([request]), request.answer()
    np.testing.assert_array_equal(found[0], wanted[0])
    assert_close(found[1], wanted[1])


def test_best_shifts_of_samples_off_the_grid_are_those_of_the_cpu(card):
    compared = comparison("tilted", Score.RCS)
    target = compared.target
    turned = (Rotation.from_rotvec([0.1, 0.2, -0.1]).as_matrix() @ target.frequency_xyz).astype(np.float32)
    off = Spectrum(turned, target.value, target.transfer, target.weight, N, VOXEL, target.limit, on_grid=False)
    request = BestShifts(Comparison(off, compared.reference, score=Score.RCS), POSES.matrix, 1.5 * VOXEL)
    (found,), wanted = card.answers([request]), request.answer()
    np.testing.assert_array_equal(found[0], wanted[0])
    assert_close(found[1], wanted[1])


def frames() -> dict:
    target, start = particle(1), POSES[0]
    prior = {"max_rotation_deg": 20.0, "prior_rotation_sd_deg": 3.0, "prior_shift_sd_angstrom": 5.0}
    axis = gonio.Settings(search="axis"), gonio.Settings(search="axis", axis_sd_deg=4.0)
    return {
        "free": near(target, start, gonio.Settings(search="local"), reach_deg=None),
        "prior": near(target, start, gonio.Settings(search="local", **prior), reach_deg=None),
        "axis": about_normals(target, particle(11), axis[0], reach_deg=None),
        "axis, prior": about_normals(
            target, particle(11), gonio.Settings(search="axis", axis_sd_deg=4.0), reach_deg=None
        ),
    }


@pytest.mark.parametrize("frame", list(frames()))
@pytest.mark.parametrize("score", [Score.RCS, Score.LIKELIHOOD])
def test_refinements_are_those_of_the_cpu(card, frame, score):
    # Two steps: rounding is not yet told apart by which of two nearly equal values is smaller.
    problem = frames()[frame].pose_problem(comparison("tilted", score), crowding=1.5)
    request = Refinement(problem, POINTS[:2], 2)
    (found,), wanted = card.answers([request]), request.answer()
    np.testing.assert_array_equal(found.code, wanted.code)
    np.testing.assert_array_equal(found.iterations, wanted.iterations)
    for name in ("points", "dissimilarity", "hessian", "descent", "damping", "growth"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-3, atol=1e-3)


def test_a_refinement_that_starts_without_overlap_says_so(card):
    frame = frames()["free"]
    nowhere = POINTS[:1].copy()
    nowhere[0, 9] = 1e4  # beyond the largest shift
    request = Refinement(frame.pose_problem(comparison("tilted", Score.RCS)), nowhere, 3)
    (found,), wanted = card.answers([request]), request.answer()
    assert found.status == wanted.status and found.iterations[0] == wanted.iterations[0] == 0


def mixed() -> list:
    one, two = comparison("tilted", Score.RCS), comparison("weights", Score.FCS, seed=2)
    return [
        Equations(one, POINTS), ShellSums(two, POINTS[:1]), Equations(two, POINTS), ShellMatrices(one, POINTS[1]),
        BestShifts(one, POSES.matrix[:1], VOXEL), BestShifts(two, POSES.matrix[:2], VOXEL),
    ]  # fmt: skip


def same_bits(first: list, second: list) -> bool:
    def flat(answer) -> list:
        if isinstance(answer, np.ndarray):
            return [answer]
        return list(answer) if isinstance(answer, tuple) else list(vars(answer).values())

    return all(
        np.array_equal(a, b, equal_nan=True) for one, two in zip(first, second, strict=True)
        for a, b in zip(flat(one), flat(two), strict=True)
    )  # fmt: skip


def test_answers_do_not_depend_on_what_else_is_asked(card):
    requests = mixed()
    together, alone = card.answers(requests), [card.answers([request])[0] for request in requests]
    assert same_bits(together, alone) and same_bits(together, card.answers(requests))


def test_work_that_memory_does_not_hold_is_halved_and_goes_on(card, monkeypatch):
    requests, launched = mixed(), []
    wanted = card.answers(requests)
    empty = card.card.empty

    def small(shape, dtype):
        if len(shape) and shape[0] > 5:
            launched.append(shape)
            raise cards.OutOfMemory
        return empty(shape, dtype)

    monkeypatch.setattr(card.card, "empty", small)
    assert same_bits(card.answers(requests), wanted) and launched


def test_launches_are_as_large_as_free_memory_allows(card, monkeypatch):
    requests, blocks = [Equations(comparison("full", Score.RCS), POINTS[[i % 3]]) for i in range(6)], []
    wanted, launch = card.answers(requests), card.card.launch
    most = 2.5 * bytes_of(requests[0])
    monkeypatch.setattr(cards, "SIMULATED_MEMORY", most / cards.SHARE)
    monkeypatch.setattr(card.card, "launch", lambda kernel, n, *rest: blocks.append(n) or launch(kernel, n, *rest))
    assert same_bits(card.answers(requests), wanted) and blocks == [2, 2, 2]


def test_a_pair_that_does_not_fit_alone_is_one_clear_error(card, monkeypatch):
    def never(shape, dtype):
        raise cards.OutOfMemory

    monkeypatch.setattr(card.card, "empty", never)
    with pytest.raises(MemoryError, match="not enough memory for a single pair: use device='cpu'"):
        card.answers(mixed()[:1])


def test_long_arrays_begin_anew_when_they_are_full(monkeypatch):
    monkeypatch.setattr(cards, "FIRST_LENGTH", 8)
    small = Device(cards.Card(threads=THREADS))
    for seed in range(1, 5):
        request = ShellSums(comparison("tilted", Score.FCS, seed=seed), POINTS[:1])
        assert_close(small.answers([request])[0], request.answer())
    kept = small.card._kept["grids"]
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
        assert angle < FLAT_DEG and np.abs(one.pose.shift_angstrom - two.pose.shift_angstrom).max() < 1e-3 * VOXEL
        assert one.status.ok == two.status.ok and len(one.runners_up) == len(two.runners_up)
        sd = np.sqrt(np.diag(two.covariance))  # zero along what an axis search keeps
        assert np.all(np.abs(one.covariance - two.covariance) <= 0.02 * np.outer(sd, sd) + 1e-12)


@pytest.mark.parametrize("search", ["local", "axis"])
def test_whole_alignments_find_what_the_cpu_finds(small_card, search):
    targets = [particle(7, noise=0.1), particle(7, noise=0.3)]
    starts = gonio.Pose(Rotation.from_rotvec([[0.05, 0.0, 0.1], [0.0, -0.1, 0.05]]), np.full((2, 3), 3.0))
    given = {"starts": starts} if search == "local" else {}
    wanted = aligner(search).align_many(targets, **given)
    on_card = gonio.Aligner(particle(7, noise=0.05), aligner(search).settings, device=small_card)
    assert on_card.device == "cuda:0 (simulated card)"
    found = on_card.align_many(targets, **given)
    assert_alike(found, wanted)
    if search == "local":
        alone = on_card.align(targets[1], start=starts[1])
        np.testing.assert_array_equal(alone.covariance, found[1].covariance)


def test_all_pairs_find_what_the_cpu_finds(small_card):
    particles = [particle(7, noise=noise) for noise in (0.05, 0.1, 0.2)]
    settings = aligner("axis").settings
    wanted = list(gonio.align_all_pairs(particles, settings))
    found = list(gonio.align_all_pairs(particles, settings, device=small_card))
    assert [(p.reference, p.target) for p in found] == [(p.reference, p.target) for p in wanted]
    assert_alike([p.result for p in found], [p.result for p in wanted])


class Sums:
    """A stage of searches that ask for one thing each."""

    searches = 1

    def ask(self, item: int):
        return (yield ShellSums(comparison("tilted", Score.FCS, seed=1 + item % 3), POINTS[[item % 3]]))


def test_workers_with_a_card_each_compute_what_one_card_computes():
    # The simulator has one card: two processes take it.
    alone = list(cards_for("cuda")("sums", Sums(), 7))
    with cards_for("cuda:0,cuda:0", n_threads=2) as two:
        assert two.name == "cuda:0 (simulated card), cuda:0 (simulated card)"
        together = list(two("sums", Sums(), 7))
    assert same_bits(together, alone)
    for item, found in enumerate(alone):
        assert_close(found, answered(Sums().ask(item)))


def test_searches_end_in_their_order_however_long_they_take(card):
    request = ShellSums(comparison("full", Score.FCS), POINTS[:1])

    def asking(number: int):
        for _ in range(number % 3):
            yield request
        return number

    assert list(results((asking(i) for i in range(11)), card, together=2)) == list(range(11))


def test_the_first_search_that_fails_is_told_after_those_before_it(card):
    request = ShellSums(comparison("full", Score.FCS), POINTS[:1])

    def asking(number: int):
        for _ in range(3 if number == 1 else 1):
            yield request
        if number == 2:
            raise ValueError("the third")
        return number

    def source():
        for number in range(4):
            yield asking(number)
        raise ValueError("the fifth")

    found = results(source(), card, together=3)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(found)
