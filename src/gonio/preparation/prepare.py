"""From particles to the samples that are compared, unprocessed or restored; the reference is prepared once.

Flow: particle -> cropped to a box that contains it -> restored within its sphere (restoration), or noise-weighted
(noise_weighting), or masked, or unprocessed -> samples (fourier). Must not know how a pose is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gonio.averaging.resolution import check_mask
from gonio.averaging.single import by_itself
from gonio.comparison.expected_fsc import ExpectedFsc, stretched
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.grid import remembered
from gonio.fourier.spectrum import Spectrum
from gonio.fourier.transform import MIN_SHELLS, shell_limit
from gonio.particle.arguments import described
from gonio.particle.volume import (
    VOXEL_SIZE_TOLERANCE,
    Particle,
    Subtomogram,
    TiltStack,
    Volume,
    boxed,
    masked,
    masked_volume,
    mean_free_volume,
    same_size,
    sphere_of,
)
from gonio.particle.wedge import NoWedge, Wedge
from gonio.preparation.extent import (
    EXTENT_SHELLS,
    samples_per_independent,
    sphere_diameter_angstrom,
    widest_sphere_angstrom,
)
from gonio.preparation.noise_weighting import Measured, Reliability
from gonio.preparation.noisy_reference import Support, filtered_reference, open_window, windowed
from gonio.preparation.restoration import Restorer
from gonio.settings import Settings

# Picked positions are off by an eighth of the diameter to either side at most: a sphere this much wider is enough.
PICKED_WITHIN = 1.25
# ... and of a noisy map nothing is kept beyond a sphere this much wider than the estimated one, which cuts 5 % of the
# power of an elongated particle: maps cut there drift, by 0.35 angstrom with every iteration of a refinement.
WINDOW_WITHIN = 1.25
# Least fraction of the truth's power that a density is taken to hold: less is what other shells leave in this one. S is
# not that of the map in a sphere, which gives power to the shells beyond a coarse map's end.
MIN_HELD = 0.1
# Estimated diameters are rounded to this fraction of the resolution, less than the difference between two particles of
# a kind, so that particles share spheres.
SPHERE_STEP = 0.2
# Boxes are cropped to this many diameters of the particle's sphere, whose soft edge ends at 1.25, where that removes a
# fifth or more of the edge; density that the wedge has smeared out of the smaller box is lost. References are restored
# only once, in larger boxes. 40 pairs of `sharp` in boxes of 64, +-60, SNR 0.25, rms error and time per pair: 1.2 and
# 1.35, 1.71 degrees, 14 ms; 1.35 and 1.7, 1.56, 19; 1.5 and 1.7, 1.52, 21; uncropped, 1.32, 92; in boxes of 32, 17 ms.
CROP, REFERENCE_CROP, WORTH_CROPPING = 1.5, 1.7, 0.8
# Crop for estimating the sphere: the surroundings are noise.
SPHERE_CROP = 1.4
# Most estimates of a sphere.
SPHERE_ITERATIONS = 8
# Restorers that are cached, for any reference: one for each wedge and box.
RESTORERS = 32


@dataclass(frozen=True)
class _Reference:
    """Spectrum of the reference, and its fraction of signal and power in shells of the target, (s,).

    A reference with a missing wedge is restored, one without is within its window: restored, a map is wrong at fine
    limits (docs/theory.md section 12). ``best`` is the spectrum to compare with targets that are not restored: that of
    a map is filtered by its reliability besides (``noisy_reference``), which is ``known``.
    """

    signal_fraction: NDArray[np.float64]
    spectrum: FourierVolume
    power: NDArray[np.float64]
    best: FourierVolume
    known: Reliability | None = None


@dataclass(frozen=True)
class _Noisy:
    """A map as signal with a known error, in its own box, one voxel a sample.

    The most probable density, the map in its window; the fraction of the truth's power that the density holds, in
    shells (s,); samples per sample that the support leaves independent.
    """

    density: Volume
    within: Volume
    held: NDArray[np.float64]
    samples_per_independent: float


@dataclass(frozen=True)
class _RestoredTarget:
    """A restored target: samples, fraction of signal and power in its shells, (s,), samples per independent sample."""

    samples: Spectrum
    signal_fraction: NDArray[np.float64]
    power: NDArray[np.float64]
    samples_per_independent: float


# Prepared versions of a target, by their parameters.
Kept = dict[Hashable, Any]


def _kept(kept: Kept, key: Hashable, make: Callable[[], Any]) -> Any:
    if key not in kept:
        kept[key] = make()
    return kept[key]


class Preparation:
    """Preparation of targets for one reference.

    Parameters
    ----------
    reference
        Volume and wedge.
    settings
        Resolution, sphere and whether to restore.
    mask
        Support of the reference: a volume of its box, 0 to 1; None for a sphere.
    reference_fsc
        FSC of the reference's half maps, shape (s,), shells one over its box wide; None when it is not known.
    """

    def __init__(
        self,
        reference: Subtomogram,
        settings: Settings,
        *,
        mask: Volume | None = None,
        reference_fsc: NDArray[np.float64] | None = None,
    ) -> None:
        self.reference = reference
        self.settings = settings
        self._mask = mask
        self._fsc = reference_fsc
        self._ready: dict[int, _Reference] = {}
        self._unprocessed: dict[tuple[int, float | None], FourierVolume] = {}
        self._lock = Lock()
        if mask is not None and mask.box != reference.box:
            raise ValueError(f"the mask has a box of {mask.box} voxels, the reference one of {reference.box}")
        if mask is not None and not mask.data.max() > 0:
            raise ValueError("the mask is zero everywhere: it must be 1 where the reference has density")
        if mask is not None:
            check_mask(mask)
        self._resolution_angstrom = settings.resolution(reference.voxel_size_angstrom)
        self._volume = mean_free_volume(reference.volume)
        density = mask or self._volume
        self._extent = self._sphere_angstrom(density, density.box_angstrom)
        if settings.restores:
            self._compared, self._signal_fraction = self._compared_reference()
            self._reference_for(self._cropped_box(self._extent, reference.volume))
        else:
            self._unprocessed_reference(reference.box, settings.mask_diameter_angstrom)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle only the input, which is smaller; the same preparation follows from it."""
        again = partial(Preparation, mask=self._mask, reference_fsc=self._fsc)
        return again, (self.reference, self.settings)

    def pair(self, target: Particle, *, kept: Kept | None = None) -> Pair:
        """Return target and reference prepared according to the settings.

        A box that is larger than its particle needs is cropped. ``kept`` caches what was prepared of this target for
        other references, and is extended.
        """
        self.check(target)
        target = self._comparable(target)
        if not self.settings.restores:
            return self.plain_pair(target, diameter_angstrom=self.settings.mask_diameter_angstrom)
        if isinstance(target, TiltStack) or target.premultiplied is not None:
            return self._unrestored_pair(target)
        target = replace(target, volume=mean_free_volume(target.volume))
        box = self._compared_box(target)
        if box < target.box:
            target = replace(target, volume=boxed(target.volume, box))
        reference = self._reference_for(target.box)
        weighted = self._noise_weighted_pair(target, reference)
        return self._restored_pair(target, reference, {} if kept is None else kept) if weighted is None else weighted

    def _restored_pair(self, target: Subtomogram, reference: _Reference, kept: Kept) -> Pair:
        """Return the pair of restored densities; the restored target is looked up in ``kept`` or added to it."""
        limit = reference.spectrum.limit
        diameter: float = _kept(kept, ("diameter", target.box, self._extent), lambda: self.diameter_angstrom(target))
        key = "restored", target.box, diameter, limit
        restored: _RestoredTarget = _kept(kept, key, lambda: self._restored_target(target, diameter, limit))
        before = ExpectedFsc.of_shares(
            restored.signal_fraction, reference.signal_fraction, restored.power, reference.power
        )
        return Pair(
            restored.samples, reference.spectrum, restored.samples_per_independent, self._c_ref(target.box, limit),
            before, diameter_angstrom=diameter,
        )  # fmt: skip

    def _restored_target(self, target: Subtomogram, diameter_angstrom: float, limit: float) -> _RestoredTarget:
        restorer = self._restorer(target.wedge, target.box, diameter_angstrom, limit)
        restored = restorer.restore(target.volume)
        samples = Spectrum.of(replace(target, volume=restored.volume), limit=limit)
        return _RestoredTarget(
            samples, restored.signal_fraction, samples.shell_power(), restorer.restored_samples_per_independent
        )

    def _comparable(self, target: Particle) -> Particle:
        """Return the target, without its premultiplied transfer where the reference has a missing wedge."""
        if isinstance(target, Subtomogram) and not self._is_map:
            return by_itself(target)
        return target

    def _unrestored_pair(self, target: Particle) -> Pair:
        """Return the pair of a tilt stack within its circle, or of a pseudo-subtomogram, which is W G + noise.

        The latter needs no sphere: its product with the reference is D times the density itself, and ends where that
        does.
        """
        reference, diameter = self.unrestored_reference(target)
        within = isinstance(target, TiltStack) or self.settings.mask_diameter_angstrom is not None
        kappa = samples_per_independent(target, diameter) if within else 1.0
        samples = Spectrum.of(masked(target, diameter) if within else target, limit=reference.limit)
        c_ref = self._c_ref(target.box, reference.limit)
        if not self._is_map:
            return Pair(samples, reference, kappa, c_ref)
        return Pair(samples.whitened(), reference, kappa, c_ref, exact=True, diameter_angstrom=diameter)

    def unrestored_reference(self, target: Particle) -> tuple[FourierVolume, float]:
        """Return what a target that is not restored is compared with, and the diameter that holds it, angstrom."""
        return self._reference_for(target.box).best, self._picked_within(target)

    def diameter_angstrom(self, target: Particle) -> float:
        """Return the diameter of the sphere that contains the target, given or estimated, in angstrom."""
        if self._is_given or isinstance(target, TiltStack) or target.premultiplied is not None:
            return self._picked_within(target)
        return max(self._extent, self._shown_angstrom(target.volume, self._extent))

    @property
    def extent_angstrom(self) -> float:
        """Diameter of the sphere that the reference fills, angstrom."""
        return self._extent

    @property
    def _is_given(self) -> bool:
        """Whether the settings give a diameter."""
        return bool(self.settings.mask_diameter_angstrom or self.settings.particle_diameter_angstrom)

    def _compared_box(self, target: Subtomogram) -> int:
        """Return the voxels along the edge of the box to compare, which contains the target's sphere."""
        if self._cropped_box(self._extent, target.volume) == target.box:
            return target.box
        given = self._is_given
        diameter = self._picked_within(target) if given else self._sphere_angstrom(target.volume, self._extent)
        return self._cropped_box(max(self._extent, diameter), target.volume)

    def _sphere_angstrom(self, volume: Volume, about_angstrom: float) -> float:
        """Estimate the diameter of the sphere that a volume fills, from a first guess.

        The shells to use and the crop of the box depend on the diameter, so the estimate is iterated.
        """
        diameter = self._shown_angstrom(volume, about_angstrom)
        for _ in range(SPHERE_ITERATIONS):
            volume = boxed(volume, self._cropped_box(diameter, volume, SPHERE_CROP))
            before, diameter = diameter, self._shown_angstrom(volume, diameter)
            if diameter >= before:
                break
        return diameter

    def _cropped_box(self, diameter_angstrom: float, volume: Volume, diameters: float = CROP) -> int:
        """Return the voxels along a box for a sphere and enough shells; the volume's own if not much larger."""
        diameter = max(diameter_angstrom, self.settings.mask_diameter_angstrom or 0.0)
        least = max(diameters * diameter, 2.0 * MIN_SHELLS * self._resolution_angstrom) / volume.voxel_size_angstrom
        box = 2 * int(np.ceil(0.5 * least - 1e-6))
        return box if box <= WORTH_CROPPING * volume.box else volume.box

    def _shown_angstrom(self, volume: Volume, about_angstrom: float) -> float:
        """Estimate a volume's diameter, rounded, from the shells that suit a diameter of ``about_angstrom``."""
        step = SPHERE_STEP * self._resolution_angstrom
        shells = EXTENT_SHELLS * volume.box_angstrom / (SPHERE_CROP * about_angstrom)
        return float(np.floor(sphere_diameter_angstrom(volume, shells=shells) / step + 0.5) * step)

    def _noise_weighted_pair(self, target: Subtomogram, reference: _Reference) -> Pair | None:
        """Return the target weighted by its noise and the reference's error (section 12).

        None where the reference has a missing wedge, or the target has so little noise that it is restored.
        """
        if reference.known is None:
            return None
        diameter = self._picked_within(target)
        measured = Measured.of(target, limit=reference.best.limit, diameter_angstrom=diameter)
        if not measured.is_noisy and not isinstance(target.wedge, NoWedge):
            return None
        spectrum, kappa = measured.spectrum(reference.known)
        return Pair(spectrum, reference.best, kappa, exact=True, diameter_angstrom=diameter)

    @property
    def memory_bytes(self) -> int:
        """Memory of the spectra of the reference and of the density that they are of."""
        ready = [spectrum for r in self._ready.values() for spectrum in (r.spectrum, r.best)]
        distinct = {id(spectrum): spectrum for spectrum in [*ready, *self._unprocessed.values()]}
        density = self._compared.data.nbytes if self.settings.restores else 0
        if "_noisy" in self.__dict__:
            density *= 3  # two maps of it
        return density + sum(spectrum.memory_bytes for spectrum in distinct.values())

    @property
    def keeps_out(self) -> bool:
        """Whether a mask or its diameter was given, outside which no density may be used."""
        return self._mask is not None or self.settings.mask_diameter_angstrom is not None

    def plain_pair(self, target: Particle, *, diameter_angstrom: float | None = None) -> Pair:
        """Return target and reference unprocessed, or within a sphere."""
        reference = self._unprocessed_reference(target.box, diameter_angstrom)
        target = target if diameter_angstrom is None else masked(target, diameter_angstrom)
        return Pair(Spectrum.of(target, limit=reference.limit), reference)

    def measured_pair(self, target: Particle) -> tuple[Comparison, float]:
        """Return the unweighted FCS in the target's sphere, and the number of samples per independent sample."""
        self.check(target)
        target = self._comparable(target)
        diameter = self.diameter_angstrom(target)
        pair = self.plain_pair(target, diameter_angstrom=diameter)
        return pair.plain(Score.FCS), samples_per_independent(target, diameter)

    def _unprocessed_reference(self, box: int, diameter_angstrom: float | None) -> FourierVolume:
        with self._lock:
            if (box, diameter_angstrom) not in self._unprocessed:
                volume = self._volume
                if diameter_angstrom is not None:
                    volume = masked_volume(volume, diameter_angstrom)
                self._unprocessed[box, diameter_angstrom] = FourierVolume.of(
                    volume, wedge=self.reference.wedge, limit=self._limit(box), box=box
                )
            return self._unprocessed[box, diameter_angstrom]

    def _limit(self, box: int) -> float:
        """Return the resolution limit in shells of a box."""
        return shell_limit(box, self.reference.voxel_size_angstrom, self._resolution_angstrom)

    def _reference_for(self, box: int) -> _Reference:
        """Return the reference for targets of a box; each box size has its own unit of frequency."""
        with self._lock:
            if box not in self._ready:
                self._ready[box] = self._prepared_reference(box)
            return self._ready[box]

    def _picked_within(self, target: Particle) -> float:
        """Return the diameter of a sphere about the target's centre that contains a particle picked off centre."""
        if self.settings.mask_diameter_angstrom is not None:
            return self.settings.mask_diameter_angstrom
        widest = widest_sphere_angstrom(target.box * target.voxel_size_angstrom)
        return min(PICKED_WITHIN * (self.settings.particle_diameter_angstrom or self._extent), widest)

    def check(self, target: Particle) -> None:
        """Raise TypeError or ValueError when the target has an unsupported type or another voxel size."""
        if not isinstance(target, Subtomogram | TiltStack):
            raise TypeError(
                "target must be a gonio.Subtomogram or a gonio.TiltStack; "
                f"wrap a volume in gonio.Subtomogram(volume, wedge), got {described(target)}"
            )
        size, own = target.voxel_size_angstrom, self.reference.voxel_size_angstrom
        if not same_size(size, own, tolerance=VOXEL_SIZE_TOLERANCE):
            raise ValueError(f"voxel sizes differ: target {size:g}, reference {own:g} angstrom; resample one of them")

    def _compared_reference(self) -> tuple[Volume, NDArray[np.float64]]:
        """Return the reference in a cropped box, restored if it has a missing wedge, and its fractions of signal.

        With a given mask it is not cropped. The fractions are in shells of the box in which they were estimated.
        """
        volume = self._volume
        if self._mask is None:
            volume = boxed(volume, self._cropped_box(self._extent, volume, REFERENCE_CROP))
        diameter = self.settings.mask_diameter_angstrom or self._extent
        restorer = self._restorer(self.reference.wedge, volume.box, diameter, self._limit(volume.box), self._mask)
        self._restored_box = volume.box
        if self._is_map:
            fraction = restorer.signal_fraction(volume)
        else:
            restored = restorer.restore(volume)
            volume, fraction = restored.volume, restored.signal_fraction
        return volume if self._mask is not None else boxed(volume, self._cropped_box(self._extent, volume)), fraction

    @property
    def _is_map(self) -> bool:
        """Whether the reference has no missing wedge."""
        return isinstance(self.reference.wedge, NoWedge)

    def _prepared_reference(self, box: int) -> _Reference:
        wedge, own, limit = self.reference.wedge, self._compared.box, self._limit(box)
        shells = int(np.rint(limit)) + 1

        def spectrum_and_power(one: Volume) -> tuple[FourierVolume, NDArray[np.float64]]:
            power = Spectrum.of(Subtomogram(one, wedge), limit=self._limit(own)).shell_power()
            return FourierVolume.of(one, wedge=wedge, limit=limit, box=box), stretched(power, box / own, shells)

        fraction = stretched(self._signal_fraction, box / self._restored_box, shells)
        if not self._is_map:
            spectrum, power = spectrum_and_power(self._compared)
            return _Reference(fraction, spectrum, power, spectrum)
        noisy = self._noisy
        filtered, power = spectrum_and_power(noisy.density)
        held = stretched(noisy.held, box / own, shells)
        true_power = power / np.maximum(held, MIN_HELD)
        known = Reliability(true_power, held, noisy.samples_per_independent * (box / own) ** 3)
        return _Reference(fraction, *spectrum_and_power(noisy.within), filtered, known)

    @cached_property
    def _noisy(self) -> _Noisy:
        """The reference as signal with a known error, in its own box."""
        own = self._compared.box
        reliability = stretched(self._reliability(), own / self._restored_box, int(np.rint(self._limit(own))) + 1)
        # The reliability is that within the estimated sphere; density may lie a little beyond.
        support = Support(self._support(1.0), is_mask=self._mask is not None)
        window = self._window(reliability)
        within = windowed(self._compared, window)
        density, held = filtered_reference(self._compared, window, reliability, support)
        # Nothing is left of a map of which nothing is reliable: it is compared as it is, with a power of zero expected.
        return _Noisy(
            density if np.ptp(density.data) > 0 else within,
            within,
            held,
            float(1.0 / np.square(support.data).mean(dtype=np.float64)),
        )

    def _reliability(self) -> NDArray[np.float64]:
        """Return C_ref^2 in shells of the box of the restoration, from half maps or estimated from the reference."""
        if self._fsc is None:
            return self._signal_fraction
        truth = self._truth_correlation() ** 2
        return stretched(truth, self._restored_box / self.reference.box, len(self._signal_fraction))

    def _window(self, reliability: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return what may hold density: the mask or sphere given, or a wider sphere, open for a reliable reference."""
        window = self._support(WINDOW_WITHIN)
        return window if self.keeps_out else open_window(window, reliability)

    def _support(self, wider: float) -> NDArray[np.float32]:
        """Return the mask or sphere that was given, or a sphere of so many estimated diameters, (n, n, n)."""
        if self._mask is not None:
            return np.clip(self._mask.data, 0.0, 1.0)
        widest = widest_sphere_angstrom(self._compared.box_angstrom)
        diameter = self.settings.mask_diameter_angstrom or min(wider * self._extent, widest)
        return sphere_of(self._compared.box, self._compared.voxel_size_angstrom, diameter)

    def _restorer(
        self, wedge: Wedge, box: int, diameter_angstrom: float, limit: float, mask: Volume | None = None
    ) -> Restorer:
        size = self.reference.voxel_size_angstrom
        if mask is not None:
            return Restorer.of(
                wedge, box=box, voxel_size_angstrom=size, diameter_angstrom=diameter_angstrom, limit=limit, mask=mask
            )
        return remembered(_restorer_of, wedge, box, size, limit).within(diameter_angstrom)

    def _c_ref(self, box: int, limit: float) -> NDArray[np.float64] | None:
        """Return C_ref in shells of the target up to a limit, or None without half maps."""
        if self._fsc is None:
            return None
        # Shells of the target are one over its own box wide.
        shells = int(np.rint(limit)) + 1
        return stretched(self._truth_correlation(), box / self.reference.box, shells)

    def _truth_correlation(self) -> NDArray[np.float64]:
        """Return C_ref = sqrt(2 FSC / (1 + FSC)) in shells of the reference's box; needs the FSC of its half maps."""
        assert self._fsc is not None
        fsc = np.clip(self._fsc, 0.0, 1.0)
        return np.sqrt(2.0 * fsc / (1.0 + fsc))


@lru_cache(maxsize=RESTORERS)
def _restorer_of(wedge: Wedge, box: int, voxel_size_angstrom: float, limit: float) -> Restorer:
    """Return a restorer with the widest sphere, which particles replace by their own (``Restorer.within``)."""
    widest = widest_sphere_angstrom(box * voxel_size_angstrom)
    return Restorer.of(wedge, box=box, voxel_size_angstrom=voxel_size_angstrom, diameter_angstrom=widest, limit=limit)
