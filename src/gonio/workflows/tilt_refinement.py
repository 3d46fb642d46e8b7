"""Refinement of the tilts of tomograms: each is one bundle adjustment, of its tilts and of the particles in it.

Flow for a tomogram: its particles, each with the map of its own half -> from coarse limits to the finest: images,
loaded with the geometry found so far and weighted by their noise (``preparation.weighted_images``) -> amplitudes of
the halves' maps -> adjustment (``search.bundle_adjustment``) -> gauge, covariance, what is determined. Tomograms share
nothing, so an executor does them in any order.

Must not know how results are kept or written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.alignment.particle_list import Aligners, ParticleError
from gonio.comparison.tilt_images import ASTIGMATISM, DEFORMATION, SCALE, TILT, TiltImages
from gonio.fourier.fourier_volume import FourierVolume
from gonio.particle.ctf import mean_and_astigmatism
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.tilt_change import TiltChange, full_projections
from gonio.particle.tilt_series import TiltSeries
from gonio.particle.volume import TiltStack
from gonio.preparation.weighted_images import tilt_axes, tilt_images
from gonio.run.executor import Executor, Local
from gonio.search.bundle_adjustment import Adjusted, Bundle, BundleState, Gauge, adjusted_with_priors, in_gauge
from gonio.settings import TiltPriors

Floats = NDArray[np.float64]

# Names of a tilt's parameters, in the order of ``comparison.tilt_images``, and their units.
PARAMETERS = (
    *(("shift_x", "angstrom"), ("shift_y", "angstrom"), ("tilt_angle", "degrees"), ("across_axis", "degrees")),
    *(("in_plane", "degrees"), ("defocus", "angstrom"), ("astigmatism_0", "angstrom")),
    *(("astigmatism_45", "angstrom"), ("ln_scale", "")),
    *((f"deformation_{part}", "angstrom") for part in ("xx", "xy", "yx", "yy")),
)
# Radians of a parameter to the unit it is shown in.
SHOWN = np.array([1.0, 1.0, *3 * [np.degrees(1.0)], *8 * [1.0]])
# Shells that are compared first, and then twice as many each time: a shift is found from half a period of the finest
# detail away, here a tenth of the box (experiments/bundle, ``capture``).
LEAST_SHELLS = 5.0
# A parameter is determined where the data leave less than this fraction of its variance in the prior given.
UNDETERMINED = 0.5
# Prior of the amplitude of a map's shell in its particles: standard deviation, as a fraction of the mean over shells.
AMPLITUDE_SD = 0.5
# A half shows its reference where its contrast is above zero by this many standard deviations; else it is left out.
SIGNIFICANT = 4.0
# Memory for the samples of one tomogram's particles; those beyond it are read again at every evaluation.
KEPT_BYTES = 1 << 28


@dataclass(frozen=True)
class TiltPlan:
    """What of the tilts is refined.

    Parameters
    ----------
    astigmatism, scale
        Refine astigmatism and strength of each image as well.
    deformation
        Refine a deformation of the field in each image: a shift that is linear in x and y of a particle's place.
    priors
        Standard deviations of the priors; those of tilts are the largest, and are estimated from the tilts found.
    """

    astigmatism: bool = False
    scale: bool = False
    deformation: bool = False
    priors: TiltPriors = field(default_factory=TiltPriors)

    @property
    def active(self) -> NDArray[np.bool_]:
        """Which of a tilt's parameters are refined, (13,)."""
        active = np.ones(TILT, dtype=bool)
        active[ASTIGMATISM], active[SCALE], active[DEFORMATION] = self.astigmatism, self.scale, self.deformation
        return active


@dataclass(frozen=True)
class TomogramTilts:
    """The adjusted tilts of a tomogram, and the poses of its particles.

    Attributes
    ----------
    tilts, sd, prior_sd
        Parameters of each tilt (t, 13), in the order and units of ``PARAMETERS``, their standard deviations, marginal
        over everything else, and those of their priors, as estimated; in the gauge of
        ``search.bundle_adjustment.Gauge``, by the priors given.
    left
        Fraction of the variance that the data leave of a prior as wide as given, (t, 13).
    listed
        What the list states of the same parameters, (t, 13), rotations but the tilt angle counted from 0.
    axes
        Columns are the tilt axis, the direction across it and the beam in each image, (t, 3, 3), as the list has them.
    half_field_angstrom
        Distance from the field's centre at which its deformation is stated.
    refined
        Which of the parameters were refined.
    rotations, shifts_angstrom, contrasts
        Poses of the m particles, as matrices (m, 3, 3) and (m, 3), and how strongly they show the map of their half,
        (m,): one on average, 0 where a particle's half showed nothing of it.
    gain
        Decrease of minus the natural log of the posterior by the adjustment at the finest limit, priors as estimated
        before and after it.
    farthest_angstrom
        Largest distance of a particle in an image from where its stack was cut out.
    steps, converged
        Evaluations of all particles at all limits; whether it converged at the last limit.
    """

    tilts: NDArray[np.float64]
    sd: NDArray[np.float64]
    prior_sd: NDArray[np.float64]
    left: NDArray[np.float64]
    listed: NDArray[np.float64]
    axes: NDArray[np.float64]
    half_field_angstrom: float
    refined: tuple[bool, ...]
    rotations: NDArray[np.float64]
    shifts_angstrom: NDArray[np.float64]
    contrasts: NDArray[np.float64]
    gain: float
    farthest_angstrom: float
    steps: int
    converged: bool

    @property
    def determined(self) -> NDArray[np.bool_]:
        """Parameters that the data determine, (t, 13): they leave less than half of the variance of the prior given."""
        return np.asarray(np.array(self.refined) & (self.left < UNDETERMINED))

    @property
    def change(self) -> TiltChange:
        """The change of the listed geometry."""
        return _change_of(self.tilts / SHOWN, self.axes, self.half_field_angstrom)


@dataclass(frozen=True)
class AdjustTomogram:
    """Task of adjusting tomograms, given a tomogram's number in ``names``.

    Parameters
    ----------
    table
        Particles with half sets, stacks and tilt series; poses are those that the priors are about.
    aligners
        The reference of each particle.
    changes
        Geometry to start from, by tomogram, as changes of the listed one.
    poses
        Poses to start from, where they are not those of the table.
    """

    unit = "tomograms"
    table: ParticleTable
    aligners: Aligners
    plan: TiltPlan = field(default_factory=TiltPlan)
    changes: Mapping[str, TiltChange] = field(default_factory=dict)
    poses: Pose | None = None
    kept_bytes: int = KEPT_BYTES

    @cached_property
    def names(self) -> list[str]:
        """Names of the tomograms, in the order of the list."""
        return list(dict.fromkeys(self.table.tomograms))

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        rows: dict[str, list[int]] = {name: [] for name in self.names}
        for row, name in enumerate(self.table.tomograms):
            rows[name].append(row)
        return {name: np.array(found, dtype=np.int64) for name, found in rows.items()}

    def rows(self, item: int) -> NDArray[np.int64]:
        """Return the rows of a tomogram's particles."""
        return self._rows[self.names[item]]

    def sources(self, item: int) -> tuple[Path, ...]:
        """Return the files of a tomogram's particles."""
        return tuple(path for row in self.rows(item) for path in self.table.files_of(int(row)))

    def __call__(self, item: int) -> TomogramTilts:
        """Adjust one tomogram."""
        return _Tomogram(self, item).adjusted()


def adjust_tilts(
    task: AdjustTomogram, *, executor: Executor | None = None, stage: str = "tilts"
) -> list[TomogramTilts]:
    """Adjust every tomogram of a list, by any executor, in the order of ``task.names``."""
    return list((executor or Local())(stage, task, len(task.names)))


def changes_of(tilts: Mapping[str, TomogramTilts]) -> dict[str, TiltChange]:
    """Return the changes of the geometry of a list's tilt series, by tomogram."""
    return {name: one.change for name, one in tilts.items()}


def poses_of(task: AdjustTomogram, tilts: Sequence[TomogramTilts]) -> tuple[Pose, NDArray[np.float64]]:
    """Return the poses of all particles of a list, and their contrasts, (m,)."""
    count = len(task.table)
    rotations, shifts, contrasts = np.empty((count, 3, 3)), np.empty((count, 3)), np.empty(count)
    for item, one in enumerate(tilts):
        rows = task.rows(item)
        rotations[rows], shifts[rows], contrasts[rows] = one.rotations, one.shifts_angstrom, one.contrasts
    return Pose(Rotation.from_matrix(rotations), shifts), contrasts


def followed(poses: Pose, before: ParticleTable, after: ParticleTable) -> Pose:
    """Return poses of a list at other tilts, such that images show the particles where they did, on average.

    Particles are shifted by least squares over their images. No rotation follows: the gauge leaves none on average.
    """
    shifts = np.array(poses.shift_angstrom)
    for row in range(len(before)):
        old, new = before.stack_geometry(row), after.stack_geometry(row)
        axes = new.series.projections_xyz.reshape(-1, 3)  # (2 t, 3)
        moved = (new.offsets_angstrom - old.offsets_angstrom).ravel()
        shifts[row] -= old.sense * np.linalg.lstsq(axes, moved, rcond=None)[0]
    return Pose(poses.rotation, shifts)


def check_tilts(table: ParticleTable) -> None:
    """Raise ValueError where a list has no tilts to refine, or particles without a half set."""
    source = table.source
    if source is None or not source.stacks or not source.series:
        raise ValueError(
            "tilts are refined against stacks of 2-D tilt images with their tilt series: this list has none; give one, "
            "with its tomograms.star"
        )
    lost = int((np.asarray(table.half_sets) == 0).sum())
    if lost:
        raise ValueError(f"{lost} particles are in no half set: each is compared with the map of its own half")
    table.stack_geometry(0)


@dataclass(frozen=True)
class _Tomogram:
    """One tomogram in progress."""

    task: AdjustTomogram
    item: int
    _references: dict[int, tuple[FourierVolume, float]] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        return self.task.names[self.item]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        return self.task.rows(self.item)

    @cached_property
    def series(self) -> TiltSeries:
        assert self.task.table.source is not None
        return self.task.table.source.series[self.name]

    @cached_property
    def axes(self) -> Floats:
        return tilt_axes(self.series)

    @cached_property
    def gauge(self) -> Gauge:
        """The gauge of the result, by the priors given."""
        plan, series = self.task.plan, self.series
        return Gauge.of(
            full_projections(series), self.axes, series.defocus_per_depth, 1.0 / plan.priors.tilt_sd**2,
            deformation=plan.deformation,
        )  # fmt: skip

    @cached_property
    def half_field(self) -> float:
        """Half of the tomogram's larger edge, or where its size is not known how far out particles lie, angstrom."""
        centre, table = self.series.centre_angstrom, self.task.table
        if centre is not None:
            return float(np.max(centre[:2]))
        places = [table.stack_geometry(int(row)).place_angstrom[:2] for row in self.rows]
        return max(float(np.abs(places).max()), 1.0)

    def change_of(self, tilts: Floats) -> TiltChange:
        """Return the change that parameters (t, 13) stand for."""
        return _change_of(tilts, self.axes, self.half_field)

    def reference(self, j: int) -> tuple[FourierVolume, float]:
        """Return the reference of a particle and the diameter of its circle."""
        aligners, row = self.task.aligners, int(self.rows[j])
        which = int(aligners.which[row])
        if which not in self._references:
            self._references[which] = aligners.aligners[which].stack_reference(_stack(self.task.table, row))
        return self._references[which]

    def adjusted(self) -> TomogramTilts:
        task = self.task
        start = task.table.poses[self.rows]
        change = task.changes.get(self.name, TiltChange.none(len(self.series)))
        first = start if task.poses is None else task.poses[self.rows]
        state = BundleState(_parameters_of(change, self.axes, self.half_field), first, np.zeros(len(start)))
        found, steps, tilt_sd = None, 0, task.plan.priors.tilt_sd
        for limit in limits_to(self.reference(0)[0].limit):
            images = _Images(self, self.change_of(state.tilts), limit, state if found is not None else None)
            images = images.with_amplitudes(state)
            shown = np.array([half in images.amplitudes for half in images.halves])
            state = replace(
                state, contrasts=np.where(shown, np.where(state.contrasts > 0.0, state.contrasts, 1.0), 0.0)
            )
            found, tilt_sd = adjusted_with_priors(self._bundle(images, start, shown, tilt_sd), state, self.gauge)
            state, steps = found.state, steps + found.steps
        assert found is not None
        return self._result(found, tilt_sd, steps)

    def _bundle(self, images: _Images, start: Pose, shown: NDArray[np.bool_], tilt_sd: Floats) -> Bundle:
        references = [self.reference(j)[0] for j in range(len(self.rows))]
        plan = self.task.plan
        return Bundle(
            images, references, len(self.series), start, shown, plan.active, plan.priors, tilt_sd,
        )  # fmt: skip

    def _result(self, found: Adjusted, tilt_sd: Floats, steps: int) -> TomogramTilts:
        task, active, most = self.task, self.task.plan.active, self.task.plan.priors.tilt_sd
        gauge, count = self.gauge, len(self.series)
        prior, widest = (np.diag(np.tile(1.0 / sd[active] ** 2, count)) for sd in (tilt_sd, most))
        data = found.hessian - prior
        left = gauge.sd(active, data + widest) ** 2 / gauge.sd(active, widest) ** 2
        every = [task.table.stack_geometry(int(row)) for row in self.rows]
        places, sense = (np.array([getattr(one, name) for one in every]) for name in ("place_angstrom", "sense"))
        state = in_gauge(
            found.state, gauge, active, places_angstrom=places, sense=sense, half_field_angstrom=self.half_field
        )
        return TomogramTilts(
            tilts=state.tilts * SHOWN,
            sd=gauge.sd(active, found.hessian) * SHOWN,
            prior_sd=gauge.sd(active, prior) * SHOWN,
            left=left,
            listed=_listed(self.series, self.half_field),
            axes=self.axes,
            half_field_angstrom=self.half_field,
            refined=tuple(active.tolist()),
            rotations=state.poses.matrix,
            shifts_angstrom=state.poses.shift_angstrom,
            contrasts=state.contrasts,
            gain=found.before - found.value,
            farthest_angstrom=self._farthest(found.state),
            steps=steps,
            converged=found.converged,
        )

    def _farthest(self, state: BundleState) -> float:
        """Return the largest distance of a particle from where its images were cut out, angstrom."""
        table = self.task.table.with_changes({self.name: self.change_of(state.tilts)})
        most = 0.0
        for j, row in enumerate(self.rows):
            geometry = table.stack_geometry(int(row))
            axes = geometry.series.projections_xyz * geometry.sense
            offsets = geometry.offsets_angstrom + axes @ state.poses.shift_angstrom[j]
            most = max(most, float(np.linalg.norm(offsets, axis=1).max()))
        return most


def limits_to(finest: float) -> list[float]:
    """Return the limits that are compared one after another, in shells, up to the finest."""
    limits = [finest]
    while limits[-1] > LEAST_SHELLS:
        limits.append(max(0.5 * limits[-1], LEAST_SHELLS))
    return limits[::-1]


def _stack(table: ParticleTable, row: int) -> TiltStack:
    stack = table.load(row)
    if not isinstance(stack, TiltStack):
        raise ParticleError(f"particle {table.names[row]!r} is no stack of tilt images")
    return stack


@dataclass
class _Images:
    """The images of a tomogram's particles, loaded at one geometry; as many are kept as fit into the memory for them.

    They are compared up to a ``limit`` in shells. Where a ``state`` has been adjusted they are weighted by the noise
    that it leaves. ``amplitudes`` are those of the shells of each half's map in its particles.
    """

    tomogram: _Tomogram
    change: TiltChange
    limit: float
    state: BundleState | None
    kept: dict[int, TiltImages] = field(default_factory=dict)
    amplitudes: dict[int, Floats] = field(default_factory=dict)
    bytes: int = 0

    @cached_property
    def table(self) -> ParticleTable:
        return self.tomogram.task.table.with_changes({self.tomogram.name: self.change})

    @cached_property
    def halves(self) -> list[int]:
        """Half of each particle."""
        return np.asarray(self.tomogram.task.table.half_sets)[self.tomogram.rows].tolist()

    def __call__(self, j: int) -> TiltImages:
        if j in self.kept:
            return self.kept[j]
        row = int(self.tomogram.rows[j])
        reference, diameter = self.tomogram.reference(j)
        with ParticleError.naming(f"particle {self.table.names[row]!r}"):
            geometry = self.tomogram.task.table.stack_geometry(row)
            images = tilt_images(
                _stack(self.table, row), geometry, self.tomogram.axes[geometry.tilts], diameter_angstrom=diameter,
                limit=self.limit, half_field_angstrom=self.tomogram.half_field, loaded=self.table.stack_geometry(row),
            )  # fmt: skip
        if self.state is not None and self.state.contrasts[j] > 0.0:
            pose = self.state.poses[j]
            images = images.weighted_by_residuals(
                reference, self.state.tilts[geometry.tilts], pose.matrix, pose.shift_angstrom
            )
        if self.halves[j] in self.amplitudes:
            images = images.scaled(self.amplitudes[self.halves[j]])
        if self.bytes + images.memory_bytes <= self.tomogram.task.kept_bytes:
            self.kept[j], self.bytes = images, self.bytes + images.memory_bytes
        return images

    def with_amplitudes(self, state: BundleState) -> _Images:
        """Estimate how strongly each shell of a half's map shows in its particles, all of them together.

        Maps are filtered, have noise in them, and were averaged from images that were not where they seemed to be: what
        is expected of a shell is its regression (docs/theory.md section 17). Halves that show nothing have none.
        """
        sums: dict[int, Floats] = {}
        for j, half in enumerate(self.halves):
            images, pose = self(j), state.poses[j]
            of_it = images.along_model(
                self.tomogram.reference(j)[0], state.tilts[images.tilts], pose.matrix, pose.shift_angstrom
            )
            sums[half] = sums.get(half, 0.0) + np.array(of_it)  # (2, s)
        found = {}
        for half, (along, power) in sums.items():
            if along.sum() > SIGNIFICANT * np.sqrt(power.sum()):
                mean = along.sum() / power.sum()
                prior = 1.0 / (AMPLITUDE_SD * mean) ** 2
                found[half] = np.maximum(along + prior * mean, 0.0) / (power + prior)
        kept = {j: one.scaled(found[self.halves[j]]) for j, one in self.kept.items() if self.halves[j] in found}
        return replace(self, amplitudes=found, kept=kept)


def _listed(series: TiltSeries, half_field_angstrom: float) -> Floats:
    """Return what a series states of the parameters of its tilts, in the units of ``PARAMETERS``, (t, 13)."""
    listed = np.zeros((len(series), TILT))
    if series.shifts_angstrom is not None:
        listed[:, :2] = series.shifts_angstrom
    listed[:, 2] = series.tilts_deg
    if series.defocus is not None:
        listed[:, 5:8] = mean_and_astigmatism(series.defocus)
    if series.scale is not None:
        listed[:, SCALE] = np.log(np.maximum(series.scale, 1e-6))
    if series.deformation is not None:
        listed[:, DEFORMATION] = half_field_angstrom * series.deformation.reshape(-1, 4)
    return listed


def _parameters_of(change: TiltChange, axes: Floats, half_field_angstrom: float) -> Floats:
    """Return the parameters (t, 13), in radians and angstrom, of a change."""
    tilts = np.zeros((len(change), TILT))
    tilts[:, :2], tilts[:, 5] = change.shift_angstrom, change.defocus_angstrom
    tilts[:, 2:5] = np.einsum("tba,tb->ta", axes, np.radians(change.rotation_deg))
    if change.astigmatism_angstrom is not None:
        tilts[:, ASTIGMATISM] = change.astigmatism_angstrom
    if change.scale is not None:
        tilts[:, SCALE] = np.log(change.scale)
    if change.deformation is not None:
        tilts[:, DEFORMATION] = half_field_angstrom * change.deformation.reshape(-1, 4)
    return tilts


def _change_of(tilts: Floats, axes: Floats, half_field_angstrom: float) -> TiltChange:
    """Return the change that parameters (t, 13) stand for; None for what no image has."""
    turns = np.degrees(np.einsum("tab,tb->ta", axes, tilts[:, 2:5]))
    astigmatism = tilts[:, ASTIGMATISM] if tilts[:, ASTIGMATISM].any() else None
    deformation = tilts[:, DEFORMATION].reshape(-1, 2, 2) / half_field_angstrom
    return TiltChange(
        tilts[:, :2], turns, tilts[:, 5], astigmatism, np.exp(tilts[:, SCALE]) if tilts[:, SCALE].any() else None,
        deformation if deformation.any() else None,
    )  # fmt: skip
