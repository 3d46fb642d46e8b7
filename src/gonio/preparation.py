"""From particles to the samples that are compared, plain or restored; what depends on the reference is kept.

Flow: particle -> restored within its sphere (restoration), or weighted by its noise (measured), or masked, or as it is
-> samples (fourier). Must not know how a pose is looked for.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from gonio.coarse_to_fine import Pair
from gonio.expectation import Expectation
from gonio.fourier import FourierVolume, Spectrum, shell_limit
from gonio.lattice import remembered
from gonio.measured import Measured
from gonio.restoration import Restored, Restorer, circle_crowding, sphere_diameter_angstrom
from gonio.settings import Settings
from gonio.volume import MASK_EDGE, Particle, Subtomogram, TiltStack, Volume, masked, masked_volume
from gonio.wedge import NoWedge, Wedge

__all__ = ["Preparation"]

VOXEL_SIZE_TOLERANCE = 1e-3
# Particles are picked to within an eighth of their diameter on either side, so a sphere this much wider holds them.
PICKED_WITHIN = 1.25
# Diameters that are estimated are rounded to this share of the box, less than what two particles of a kind differ by.
SPHERE_STEP = 1.0 / 40.0
# Restorers that are remembered, of any reference: one for each wedge and sphere.
RESTORERS = 32
# A reference is clean when every shell holds this share of signal or more. Maps of phantoms hold 0.998 to 1 (imaged
# `four_gaussians`, which the box cuts, 0.989), the average of 50 particles 0.998 at SNR 0.5 and 0.994 at 0.1: with that
# one restored targets are found better.
CLEAN = 0.997


@dataclass(frozen=True)
class _Reference:
    """The reference's spectrum, and in shells of the target the share of its signal and its power, (s,).

    ``clean`` are spectrum and power of a reference that is whole and clean: without a sphere, which would only cut its
    tail off, unless one was given.
    """

    spectrum: FourierVolume
    signal_share: NDArray[np.float64]
    power: NDArray[np.float64]
    clean: tuple[FourierVolume, NDArray[np.float64]] | None


class Preparation:
    """Prepares targets for one reference.

    Parameters
    ----------
    reference
        With its wedge.
    settings
        Resolution, sphere and whether to restore.
    mask
        Where the reference has density: a volume of its box, 0 to 1; None for a sphere.
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
        self._plain: dict[tuple[int, float | None], FourierVolume] = {}
        self._lock = Lock()
        if mask is not None and mask.box != reference.box:
            raise ValueError(f"the mask has a box of {mask.box} voxels, the reference one of {reference.box}")
        self._extent = _sphere_angstrom(mask or reference.volume)
        if settings.restores:
            self._reference_for(reference.box)
        else:
            self._plain_reference(reference.box, settings.mask_diameter_angstrom)

    def pair(self, target: Particle, *, kept: dict[Hashable, tuple[Spectrum, Restored]] | None = None) -> Pair:
        """Target and reference as the settings ask for them.

        ``kept`` holds what was made of this target for other references before, and receives what is made now.
        """
        self.check(target)
        if not self.settings.restores:
            return self.plain_pair(target, diameter_angstrom=self.settings.mask_diameter_angstrom)
        ready = self._reference_for(target.box)
        reference = ready.spectrum
        if isinstance(target, Subtomogram):
            clean = self._clean_pair(target, ready)
            if clean is not None:
                return clean
            diameter = self.diameter_angstrom(target)
            restorer = self._restorer(target.wedge, target.box, diameter, reference.limit)
            kept = {} if kept is None else kept
            if (diameter, reference.limit) not in kept:
                made = restorer.restore(target.volume)
                seen = Spectrum.of(replace(target, volume=made.volume), limit=reference.limit)
                kept[diameter, reference.limit] = seen, made
            samples, restored = kept[diameter, reference.limit]
            before = Expectation.of_shares(
                restored.signal_share,
                ready.signal_share,
                target_power=samples.shell_power(),
                reference_power=ready.power,
            )
            crowding, ceiling = restorer.restored_crowding, self._ceiling(target.box, reference.limit)
            return Pair(samples, reference, crowding, ceiling, before, diameter_angstrom=diameter)
        diameter = self.diameter_angstrom(target)
        samples = Spectrum.of(masked(target, diameter), limit=reference.limit)
        crowding, ceiling = circle_crowding(target, diameter), self._ceiling(target.box, reference.limit)
        if not isinstance(self.reference.wedge, NoWedge):
            return Pair(samples, reference, crowding, ceiling)
        return Pair(samples.whitened(), reference, crowding, ceiling, exact=True, diameter_angstrom=diameter)

    def _clean_pair(self, target: Subtomogram, ready: _Reference) -> Pair | None:
        """The target as it was measured, weighted by its noise (docs/theory.md section 12); None where that says less.

        Where the reference is whole and clean nothing has to be guessed of the target.
        """
        if ready.clean is None:
            return None
        spectrum, power = ready.clean
        diameter, ceiling = self._picked_within(target), self._ceiling(target.box, spectrum.limit)
        seen = Measured.of(target, limit=spectrum.limit, diameter_angstrom=diameter)
        if not seen.is_noisy or (ceiling is not None and (ceiling**2).min() < CLEAN):
            return None
        return Pair(seen.spectrum(power), spectrum, 1.0, ceiling, exact=True, diameter_angstrom=diameter)

    @property
    def memory_bytes(self) -> int:
        """What the spectra of the reference take."""
        ready = [r.spectrum for r in self._ready.values()] + [r.clean[0] for r in self._ready.values() if r.clean]
        different = {id(spectrum): spectrum for spectrum in [*ready, *self._plain.values()]}
        return sum(spectrum.grid.nbytes + spectrum.weights.nbytes for spectrum in different.values())

    @property
    def keeps_out(self) -> bool:
        """Whether a mask or its diameter was given, beyond which nothing may be looked at."""
        return self._mask is not None or self.settings.mask_diameter_angstrom is not None

    def plain_pair(self, target: Particle, *, diameter_angstrom: float | None = None) -> Pair:
        """Target and reference as they are, or within a sphere."""
        reference = self._plain_reference(target.box, diameter_angstrom)
        target = target if diameter_angstrom is None else masked(target, diameter_angstrom)
        return Pair(Spectrum.of(target, limit=reference.limit), reference)

    def _plain_reference(self, box: int, diameter_angstrom: float | None) -> FourierVolume:
        with self._lock:
            if (box, diameter_angstrom) not in self._plain:
                volume = self.reference.volume
                volume = volume if diameter_angstrom is None else masked_volume(volume, diameter_angstrom)
                _, limit = self._limits(box)
                self._plain[box, diameter_angstrom] = FourierVolume.of(
                    volume, wedge=self.reference.wedge, limit=limit, box=box
                )
            return self._plain[box, diameter_angstrom]

    def _limits(self, box: int) -> tuple[float, float]:
        """The resolution limit in shells of the reference, and of a target's box."""
        volume = self.reference.volume
        size = volume.voxel_size_angstrom
        resolution = self.settings.lengths(box=volume.box, voxel_size_angstrom=size).resolution_angstrom
        return shell_limit(volume.box, size, resolution), shell_limit(box, size, resolution)

    def _reference_for(self, box: int) -> _Reference:
        """The reference for targets of a box; boxes may differ, each has its own unit of frequency."""
        with self._lock:
            if box not in self._ready:
                self._ready[box] = self._prepared_reference(box)
            return self._ready[box]

    def diameter_angstrom(self, target: Particle) -> float:
        """Of the sphere that holds the target: as given, or by what target and reference show."""
        given = self.settings.mask_diameter_angstrom or self.settings.particle_diameter_angstrom
        if given is not None or isinstance(target, TiltStack):
            return self._picked_within(target)
        return max(self._extent, _sphere_angstrom(target.volume))

    def _picked_within(self, target: Particle) -> float:
        """The sphere about the target's centre beside which the particle may lie: of what the reference shows."""
        if self.settings.mask_diameter_angstrom is not None:
            return self.settings.mask_diameter_angstrom
        widest = target.box * target.voxel_size_angstrom / (1.0 + 2.0 * MASK_EDGE)
        return min(PICKED_WITHIN * (self.settings.particle_diameter_angstrom or self._extent), widest)

    def check(self, target: Particle) -> None:
        """Raise TypeError or ValueError when the target is of another kind or voxel size."""
        if not isinstance(target, Subtomogram | TiltStack):
            raise TypeError(
                "target must be a gonio.Subtomogram or a gonio.TiltStack; "
                f"wrap a volume in gonio.Subtomogram(volume, wedge), got {target!r}"
            )
        size, own = target.voxel_size_angstrom, self.reference.voxel_size_angstrom
        if abs(size / own - 1.0) > VOXEL_SIZE_TOLERANCE:
            raise ValueError(f"voxel sizes differ: target {size:g}, reference {own:g} angstrom; resample one of them")

    def _prepared_reference(self, box: int) -> _Reference:
        volume, wedge = self.reference.volume, self.reference.wedge
        own, limit = self._limits(box)
        diameter = self.settings.mask_diameter_angstrom or self._extent
        restored = self._restorer(wedge, volume.box, diameter, own, self._mask).restore(volume)
        # Shells of the target are one over its own box wide.
        shells = np.arange(int(np.rint(limit)) + 1) * volume.box / box

        def seen(one: Volume) -> tuple[FourierVolume, NDArray[np.float64]]:
            power = Spectrum.of(Subtomogram(one, wedge), limit=own).shell_power()
            spectrum = FourierVolume.of(one, wedge=wedge, limit=limit, box=box)
            return spectrum, np.interp(shells, np.arange(len(power)), power)

        share = np.interp(shells, np.arange(len(restored.signal_share)), restored.signal_share)
        spectrum, power = seen(restored.volume)
        clean = None
        if isinstance(wedge, NoWedge) and share.min() >= CLEAN:
            clean = (spectrum, power) if self.keeps_out else seen(volume)
        return _Reference(spectrum, share, power, clean)

    def _restorer(
        self, wedge: Wedge, box: int, diameter_angstrom: float, limit: float, mask: Volume | None = None
    ) -> Restorer:
        size = self.reference.voxel_size_angstrom
        if mask is not None:
            return Restorer.of(
                wedge, box=box, voxel_size_angstrom=size, diameter_angstrom=diameter_angstrom, limit=limit, mask=mask
            )
        return remembered(_restorer_of, wedge, box, size, diameter_angstrom, limit)

    def _ceiling(self, box: int, limit: float) -> NDArray[np.float64] | None:
        """Correlation of the reference with the truth: sqrt(2 FSC / (1 + FSC)) of its half maps."""
        if self._fsc is None:
            return None
        fsc = np.clip(self._fsc, 0.0, 1.0)
        truth = np.sqrt(2.0 * fsc / (1.0 + fsc))
        # Shells of the target are one over its own box wide.
        shells = np.arange(int(np.rint(limit)) + 1) * self.reference.box / box
        return np.interp(shells, np.arange(len(truth)), truth)


@lru_cache(maxsize=RESTORERS)
def _restorer_of(
    wedge: Wedge, box: int, voxel_size_angstrom: float, diameter_angstrom: float, limit: float
) -> Restorer:
    return Restorer.of(
        wedge, box=box, voxel_size_angstrom=voxel_size_angstrom, diameter_angstrom=diameter_angstrom, limit=limit
    )


def _sphere_angstrom(volume: Volume) -> float:
    """The diameter that a volume shows, in steps: particles of a kind then share their spheres."""
    step = SPHERE_STEP * volume.box_angstrom
    return float(np.floor(sphere_diameter_angstrom([volume]) / step + 0.5) * step)
