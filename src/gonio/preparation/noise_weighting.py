"""Noise-weighted subtomograms: samples, their noise, and the particle's power relative to that of a map.

For a target that is compared with a map without a missing wedge (docs/theory.md section 12):

    noise    N, shell by shell: the power outside the particle's sphere
    signal   S: the power within it above N
    ratio    envelope ratio: the factor on the map that gives it power S, a smooth curve (CTF, envelope), eq. 34

Must not know the reference except its power, nor any pose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gonio.fourier.grid import Places, low_spectrum, shell_means
from gonio.fourier.spectrum import Spectrum
from gonio.kernels.gain import gain_square
from gonio.particle.volume import Subtomogram, sphere_of

# Least noise of a shell, as a fraction of the noisiest, as filtered volumes have empty shells, and of the strongest
# signal: the box allows no better. Without it noise-free maps are lost at fine limits.
MIN_NOISE = 1e-3
# A target with a missing wedge and a larger fraction of signal is restored: its wedge smears more than its noise. The
# fraction is 0.89 at SNR 0.5 and 0.98 at 3 for `sharp`, 0.72 and 0.93 for `pseudo_symmetric`. From SNR 1 to 0.1, with a
# matching map, rms errors of noise-weighted targets are 0.9 to 1.3 times those of restored ones for rotations and 0.8
# to 1.4 times for shifts (median 1.0 and 1.0), in half the time; at SNR 3 0.9 to 1.3 times for rotations.
MAX_SIGNAL = 0.93
# Samples of which the box shows a smaller fraction do not estimate the power of noise or signal.
INNER = 0.8
# Spheres that are cached.
REMEMBERED = 8


@dataclass(frozen=True)
class Reliability:
    """Power of the truth and reliability C_ref^2 of a reference in shells of the target, (s,) each.

    ``samples_per_independent`` counts samples per sample that the reference's window leaves independent.
    """

    power: NDArray[np.float64]
    reliability: NDArray[np.float64]
    samples_per_independent: float = 1.0


@dataclass(frozen=True)
class Measured:
    """Samples, the power of noise and signal in shells 0, 1, ..., (s,) each, and the samples that estimate it, (s,)."""

    samples: Spectrum
    noise: NDArray[np.float64]
    signal: NDArray[np.float64]
    count: NDArray[np.float64]
    sphere_power: float

    @staticmethod
    def of(target: Subtomogram, *, limit: float, diameter_angstrom: float) -> Measured:
        """Measure a target within a sphere about its box centre, up to a limit in shells."""
        outside, total, square, sphere_power = _outside(target.box, target.voxel_size_angstrom, diameter_angstrom)
        data = target.volume.data
        both = np.empty((2, *data.shape), dtype=np.float32)
        np.subtract(data, np.float32(np.einsum("ijk,ijk->", outside, data) / total), out=both[0])
        np.multiply(both[0], outside, out=both[1])
        places = Places.as_imaged(target, limit)
        held, beyond = (places.values(low_spectrum(one, limit)) for one in both)  # (n,) each
        # Near the wedge's edge the sphere and the outside smear differently; the samples inside represent their shell.
        inner = places.reach > INNER if (places.reach > INNER).any() else np.ones(len(held), dtype=bool)
        shell, shells = places.shell[inner], int(np.rint(limit)) + 1
        count = np.bincount(shell, minlength=shells)
        outer = np.bincount(shell, weights=_power(beyond[inner]), minlength=shells)
        noise = shell_means(outer, square * count, np.arange(shells))
        noise = np.maximum(noise, MIN_NOISE * noise.max())
        within = np.bincount(shell, weights=_power((held - beyond)[inner]), minlength=shells)
        signal = within / np.maximum(count, 1) - sphere_power * noise
        noise = np.maximum(noise, MIN_NOISE * signal.max())
        return Measured(Spectrum.at(places, held), noise, signal, count.astype(np.float64), sphere_power)

    @property
    def signal_fraction(self) -> float:
        """Fraction of the power within the sphere that is signal."""
        signal = float(self.count @ np.maximum(self.signal, 0.0))
        return signal / max(signal + self.sphere_power * float(self.count @ self.noise), 1e-300)

    @property
    def is_noisy(self) -> bool:
        """Whether noise limits the pose, and not the smearing at the wedge's edge."""
        return self.signal_fraction <= MAX_SIGNAL

    def spectrum(self, reference: Reliability) -> tuple[Spectrum, float]:
        """Return noise-weighted samples, and the number of samples per independent sample.

        The particle is taken as the reference times an envelope ratio. The power of the truth that a noisy reference
        does not contain is noise as well, and correlated in neighbouring samples over the width of its window. The
        number of samples per independent sample is an average weighted by their information on the pose.
        """
        shells, radius = np.arange(len(self.noise)), self.samples.radius
        power = reference.power
        # The most probable curve of eq. 34; shells of the reference count by their reliability.
        square, count = np.empty(len(power)), self.count * reference.reliability
        gain_square(self.signal, self.noise, np.maximum(power, 1e-12 * power.max()), count, self.sphere_power, square)
        ratio, unexplained = np.sqrt(square), square * power * (1.0 - reference.reliability)
        noise = self.noise + reference.samples_per_independent * unexplained
        weight = self.samples.weight / np.interp(radius, shells, noise)
        samples = replace(
            self.samples,
            value=(self.samples.value / ratio.max()).astype(np.complex64),  # on the reference's scale
            transfer=np.interp(radius, shells, ratio / ratio.max()).astype(np.float32),
            weight=(weight / weight.mean(dtype=np.float64)).astype(np.float32),
        )
        information = self.count * shells**2 * square * power * reference.reliability / noise
        samples_per_independent = (
            float(information @ (noise / (self.noise + unexplained)) / information.sum()) if information.any() else 1.0
        )
        return samples, samples_per_independent


@lru_cache(maxsize=REMEMBERED)
def _outside(
    box: int, voxel_size_angstrom: float, diameter_angstrom: float
) -> tuple[NDArray[np.float32], float, float, float]:
    """Return the complement of a sphere, (n, n, n), its sum and mean square, and the mean square of the sphere."""
    sphere = sphere_of(box, voxel_size_angstrom, diameter_angstrom)
    outside = 1.0 - sphere
    return outside, float(outside.sum(dtype=np.float64)), float((outside**2).mean()), float((sphere**2).mean())


def _power(value: NDArray[np.complex64]) -> NDArray[np.float32]:
    return value.real**2 + value.imag**2
