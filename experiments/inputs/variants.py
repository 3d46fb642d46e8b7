"""The variants of inputs, weights and choice that are compared, and how a pair is aligned with each.

Flow: pair -> samples (``Inputs``: plain, masked or restored, in which sphere, with which margin at the wedge's edge)
-> the search from coarse to fine, its samples weighted and its optimum chosen as a ``Variant`` says.

With the default variant this is ``gonio.align``, step for step: ``tests/test_experiments.py`` holds it to that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

import gonio
from bound import ball_xyz, noise_power_at, noise_variance, signal
from cells import WRONG_DEG
from gonio.comparison.expected_fsc import ExpectedFsc, chance_correlation
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Comparison, Score, weighted
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.grid import index_grid
from gonio.fourier.spectrum import Spectrum
from gonio.fourier.transform import centred_fft, shell_limit
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Subtomogram, masked, sphere_of
from gonio.particle.wedge import SingleAxisWedge, WeightVolumeWedge
from gonio.preparation.prepare import Preparation
from gonio.preparation.restoration import Restored, Restorer, working_box
from gonio.search.backend import Found, PairSearch
from gonio.search.coarse_to_fine import Plan
from gonio.search.cpu import Cpu, chance_poses, expected
from gonio.search.objective import pack, poses_of, unpack
from gonio.search.search_space import Frame, everywhere
from gonio.simulate import Phantom
from pairs import BOX, VOXEL_SIZE_ANGSTROM, Cell, imaging_of, make_pair, pair_poses

BOX_ANGSTROM = BOX * VOXEL_SIZE_ANGSTROM
# The wedge without its margin is a volume of weights, this many points for each sample of the box.
POINTS, WEDGE_BOX = 4, 96


@dataclass(frozen=True)
class Inputs:
    """What is compared.

    Parameters
    ----------
    kind
        ``plain``, ``masked`` or ``restored``.
    diameter_angstrom
        Of the soft sphere; None for what the data show.
    margin
        Samples nearer to the wedge's edge than this, in units of one over the box, are left out.
    known
        Whether the restoration is given the simulator's own power of signal and noise.
    before
        Whether the coarse stages weight shells by the share of signal in each; plain inputs never do.
    """

    kind: str = "restored"
    diameter_angstrom: float | None = None
    margin: float = 0.0
    known: bool = False
    before: bool = True


@dataclass(frozen=True)
class Variant:
    """One row of the tables.

    ``weights`` are those of RCS and FCS: ``filter`` (eq. 28), ``whitened`` or ``alike``. ``score`` is refined, and
    ``choice`` picks among the optima. ``known`` takes the expectation at the true pose.
    """

    title: str
    inputs: Inputs = Inputs()
    weights: str = "filter"
    score: str = "rcs"
    choice: str = "likelihood"
    known: bool = False


PLAIN, MASKED = Inputs("plain"), Inputs("masked")
VARIANTS = {
    "restored": Variant("**restored, all defaults**"),
    "plain_alike": Variant("plain, every sample alike", PLAIN, weights="alike", choice="rcs"),
    "plain": Variant("plain, weighted", PLAIN),
    "masked": Variant("masked, weighted", MASKED),
    "masked_margin_25": Variant("masked, margin of 0.25 samples", Inputs("masked", margin=0.25)),
    "masked_margin_50": Variant("masked, margin of 0.5 samples", Inputs("masked", margin=0.5)),
    "margin_25": Variant("restored, margin of 0.25 samples", Inputs(margin=0.25)),
    "margin_50": Variant("restored, margin of 0.5 samples", Inputs(margin=0.5)),
    "alike": Variant("no weights anywhere", Inputs(before=False), weights="alike", choice="rcs"),
    "refined_alike": Variant("no weights in the refinement", weights="alike"),
    "whitened": Variant("whitened weights", weights="whitened"),
    "rcs_rcs": Variant("refined and chosen by RCS", choice="rcs"),
    "fcs": Variant("refined by FCS", score="fcs"),
    "fcs_fcs": Variant("refined and chosen by FCS", score="fcs", choice="fcs"),
    "likelihood": Variant("refined by the likelihood ratio", score="likelihood"),
    "sphere_180": Variant("sphere of 180 Å", Inputs(diameter_angstrom=180.0)),
    "sphere_210": Variant("sphere of 210 Å", Inputs(diameter_angstrom=210.0)),
    "sphere_235": Variant("sphere of 235 Å", Inputs(diameter_angstrom=235.0)),
    "sphere_256": Variant("sphere of 256 Å", Inputs(diameter_angstrom=256.0)),
    "known_powers": Variant("truth: powers of signal and noise", Inputs(known=True)),
    "known_expected_fsc": Variant("truth: expectation at the true pose", known=True),
    "known": Variant("truth: both", Inputs(known=True), known=True),
}


@dataclass(frozen=True)
class VariedPair(Pair):
    """A pair whose samples are weighted and whose optimum is chosen as a variant says."""

    weights: str = "filter"
    choice: Score = Score.LIKELIHOOD

    def filtered(self, score: Score, expected_fsc: ExpectedFsc | None, limit: float | None = None) -> Comparison:
        """As ``Pair``, which asks for the likelihood ratio at the full limit only to choose."""
        if limit is None and score is Score.LIKELIHOOD:
            score = self.choice
        if score is Score.LIKELIHOOD or self.weights == "filter" or expected_fsc is None:
            return super().filtered(score, expected_fsc, limit)
        if self.weights == "alike" or not expected_fsc.correlation.any():
            return self.plain(score, limit)
        target = self.target if limit is None else self.target.below(limit)
        return Comparison(whitened(weighted(target, expected_fsc), expected_fsc), self.reference, score=score)


def whitened(target: Spectrum, expected_fsc: ExpectedFsc) -> Spectrum:
    """Every sample's weight over the power of its shell, sqrt(P_f P_g); the mean weight stays one."""
    power = np.sqrt(expected_fsc.target_power * expected_fsc.reference_power)
    weight = target.weight / np.interp(target.radius, np.arange(len(power)), power)
    return replace(target, weight=(weight / weight.mean(dtype=np.float64)).astype(np.float32))


def without_margin(wedge: SingleAxisWedge, margin: float) -> SingleAxisWedge | WeightVolumeWedge:
    """The wedge without what lies nearer to its two limiting planes than ``margin`` samples."""
    if not margin:
        return wedge
    k = index_grid(WEDGE_BOX) / POINTS
    distance = np.abs(k @ wedge.regions[0, :6].reshape(2, 3).T).min(axis=-1)
    kept = (wedge.weight_at(k) > 0) & (distance >= margin)
    return WeightVolumeWedge(kept.astype(np.float32), POINTS * BOX_ANGSTROM / WEDGE_BOX)


def true_powers(cell: Cell, pose: gonio.Pose) -> tuple[np.ndarray, np.ndarray]:
    """Mean E|S|^2 and E|n|^2 of the measured samples in shells 1, 2, ... of a simulated particle."""
    phantom = Phantom.named(cell.phantom, box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    imaging, k = imaging_of(cell), ball_xyz()
    k = k[imaging.wedge.weight_at(k) > 0]
    power = np.abs(signal(phantom, pose, k, imaging=imaging)) ** 2
    noise = noise_power_at(k, tilt_deg=cell.tilt_deg)
    noise = 0.0 * noise if np.isinf(cell.snr) else noise * noise_variance(phantom, pose, imaging=imaging)
    shell = np.rint(np.linalg.norm(k, axis=1)).astype(int)
    count = np.bincount(shell)[1:]
    return np.bincount(shell, power)[1:] / count, np.bincount(shell, noise)[1:] / count


def known_powers(
    restorer: Restorer, particle: Subtomogram, diameter: float, cell: Cell, pose: gonio.Pose
) -> tuple[np.ndarray, np.ndarray]:
    """The truth of one particle, in the units in which the restorer would estimate it."""
    m = working_box(BOX, restorer.limit)
    sphere = sphere_of(m, BOX_ANGSTROM / m, diameter)
    kept = (np.abs(index_grid(BOX)).max(axis=-1) <= (m - 1) // 2) & index_grid(BOX).any(axis=-1)
    variance = (np.abs(centred_fft(particle.volume.data.astype(np.float64))[kept]) ** 2).sum() / BOX**6
    power, noise = (values * m**3 / BOX**6 / variance for values in true_powers(cell, pose))
    return power / (sphere**2).mean(), noise


@dataclass(frozen=True)
class Prepared:
    """A pair's samples, and the diameter that the search plans with."""

    pair: Pair
    diameter_angstrom: float


@lru_cache(maxsize=16)
def prepared(cell: Cell, index: int, inputs: Inputs) -> Prepared:
    """The samples of a pair."""
    simulated = make_pair(cell, index)
    target, reference = simulated.target, simulated.reference
    limit = shell_limit(BOX, VOXEL_SIZE_ANGSTROM, 4.0 * VOXEL_SIZE_ANGSTROM)
    preparation = Preparation(reference, gonio.Settings())
    own, widest = (inputs.diameter_angstrom or preparation.diameter_angstrom(one) for one in (reference, target))
    if inputs.kind == "plain":
        spectrum = FourierVolume.of(reference.volume, wedge=reference.wedge, limit=limit)
        return Prepared(Pair(Spectrum.of(target, limit=limit), spectrum), widest)
    poses = pair_poses(cell.phantom, index)
    shown = [
        as_compared(particle, diameter, cell, pose, inputs, limit)
        for particle, diameter, pose in ((target, widest, poses[0]), (reference, own, poses[1]))
    ]
    (f, f_fraction), (g, g_fraction) = shown
    samples, other = Spectrum.of(f, limit=limit), Spectrum.of(g, limit=limit)
    before = ExpectedFsc.of_shares(f_fraction, g_fraction, samples.shell_power(), other.shell_power())
    spectrum = FourierVolume.of(g.volume, wedge=g.wedge, limit=limit)
    return Prepared(Pair(samples, spectrum, before=before if inputs.before else None), widest)


def as_compared(
    particle: Subtomogram, diameter: float, cell: Cell, pose: gonio.Pose, inputs: Inputs, limit: float
) -> tuple[Subtomogram, np.ndarray]:
    """A particle masked or restored, its wedge without the margin, and the share of signal in its shells."""
    restorer = Restorer.of(
        particle.wedge, box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM, diameter_angstrom=diameter, limit=limit
    )
    powers = known_powers(restorer, particle, diameter, cell, pose) if inputs.known else None
    restored: Restored = restorer.restore(particle.volume, powers=powers)
    volume = masked(particle, diameter).volume if inputs.kind == "masked" else restored.volume
    return Subtomogram(volume, without_margin(particle.wedge, inputs.margin)), restored.signal_fraction


def align_with(variant: Variant, cell: Cell, index: int) -> Found:
    """The optima of a pair."""
    ready, truth = prepared(cell, index, variant.inputs), make_pair(cell, index).truth
    pair = VariedPair(**vars(ready.pair), weights=variant.weights, choice=Score(variant.choice))
    plan = Plan.of(limit=pair.target.limit, diameter_fraction=ready.diameter_angstrom / BOX_ANGSTROM)
    settings = gonio.Settings()
    frame = everywhere(pair.target, settings, spacing_deg=plan.spacing_deg)
    search = PairSearch(
        pair,
        frame,
        plan,
        Score(variant.score),
        group=Symmetry.named("C1").matrices,
        last_steps=settings.max_refinement_iterations,
        expected_fsc=expected_fsc_at(pair, truth, frame, plan) if variant.known else None,
    )
    return Cpu().search([search])[0]


def expected_fsc_at(pair: Pair, truth: gonio.Pose, frame: Frame, plan: Plan) -> ExpectedFsc:
    """What the pair has in common at its true pose."""
    coarse = pair.filtered(Score.LIKELIHOOD, pair.before, plan.limits[0])
    seeds, _ = frame.seeds(coarse, points=int(np.ceil(4 * plan.limits[0])))
    some = seeds[chance_poses(len(seeds))]
    null = chance_correlation(pair.plain(Score.FCS).shell_sums(*unpack(some)))
    return expected(pair, pack(truth.matrix[None], truth.shift_angstrom[None]), null)


def variant_job(phantom: str, tilt_deg: int, snr: float, variant: str, index: int) -> dict:
    """One pair: errors, whether the right optimum was found but not chosen, and steps."""
    cell = Cell(phantom, tilt_deg, snr)
    found = align_with(VARIANTS[variant], cell, index)
    poses, simulated = poses_of(found.points), make_pair(cell, index)
    rotation_deg, shift_voxel, _ = simulated.errors(poses[0])
    nearest = min(float(pose.rotation_distance_deg(simulated.truth)) for pose in poses)
    return {
        "rotation_error_deg": rotation_deg,
        "shift_error_voxel": shift_voxel,
        "passed_over": rotation_deg > WRONG_DEG >= nearest,
        "iterations": found.iterations,
    }
