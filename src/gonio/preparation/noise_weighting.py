"""A subtomogram as it was measured: its samples, the noise in them and how the particle's power differs from a map's.

For a target that is compared with a clean, whole map (docs/theory.md section 12):

    noise    N, shell by shell: the power found outside the particle's sphere
    signal   S: the power within it beyond N
    gain     by what the map has to be multiplied to show S, a smooth curve (lens, falling power), eq. 34

Must not know the reference but for its power, nor anything of poses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gonio.fourier.grid import Places, low_spectrum, shell_means
from gonio.fourier.spectrum import Spectrum
from gonio.kernels.gain import gain_square
from gonio.particle.volume import Subtomogram
from gonio.preparation.extent import sphere_of

__all__ = ["Measured", "Reliability"]

# No shell is taken to have less noise than this share of the noisiest: filtered volumes have shells of nothing at all.
MIN_NOISE = 1e-3
# A target that holds more signal than this is restored: what its wedge's edge smears is then more than its noise.
# `sharp` holds 0.89 at SNR 0.5 and 0.98 at 3, `pseudo_symmetric` 0.67 and 0.92. From SNR 1 to 0.1, of a matching map,
# measured rotations are 0.98 to 1.14 times as wrong (rms) as restored ones and shifts 0.75 to 1.06; at SNR 3 rotations
# are 1.1 to 1.3 times as wrong. Of a map without the target's lens rotations are 0.4 to 0.7 times as wrong.
MAX_SIGNAL = 0.93
# Samples of which the box shows less do not tell the power of noise or signal.
INNER = 0.8
# Spheres that are remembered.
REMEMBERED = 8


@dataclass(frozen=True)
class Reliability:
    """What is known of a reference: in shells of the target the truth's power and C_ref^2, (s,) each.

    ``samples_per_independent`` is how many samples there are for each that the reference's window leaves independent.
    """

    power: NDArray[np.float64]
    reliability: NDArray[np.float64]
    samples_per_independent: float = 1.0


@dataclass(frozen=True)
class Measured:
    """Samples, the power of noise and signal in shells 0, 1, ..., (s,) each, and how many samples tell it."""

    samples: Spectrum
    noise: NDArray[np.float64]
    signal: NDArray[np.float64]
    count: NDArray[np.float64]
    sphere_power: float

    @staticmethod
    def of(target: Subtomogram, *, limit: float, diameter_angstrom: float) -> Measured:
        """Of a target that lies within a sphere about its box centre, up to a limit in shells."""
        outside, total, square, sphere_power = _outside(target.box, target.voxel_size_angstrom, diameter_angstrom)
        data = target.volume.data
        both = np.empty((2, *data.shape), dtype=np.float32)
        np.subtract(data, np.float32(np.einsum("ijk,ijk->", outside, data) / total), out=both[0])
        np.multiply(both[0], outside, out=both[1])
        places = Places.as_imaged(target, limit)
        held, beyond = (places.values(low_spectrum(one, limit)) for one in both)  # (n,) each
        # Near the wedge's edge sphere and outside smear differently; what is left between stands for its shell.
        inner = places.reach > INNER if (places.reach > INNER).any() else np.ones(len(held), dtype=bool)
        shell, shells = places.shell[inner], int(np.rint(limit)) + 1
        count = np.bincount(shell, minlength=shells)
        outer = np.bincount(shell, weights=_power(beyond[inner]), minlength=shells)
        noise = shell_means(outer, square * count, np.arange(shells))
        noise = np.maximum(noise, MIN_NOISE * noise.max())
        within = np.bincount(shell, weights=_power((held - beyond)[inner]), minlength=shells)
        signal = within / np.maximum(count, 1) - sphere_power * noise
        return Measured(Spectrum.at(places, held), noise, signal, count.astype(np.float64), sphere_power)

    @property
    def signal_fraction(self) -> float:
        """Of the power within the sphere."""
        signal = float(self.count @ np.maximum(self.signal, 0.0))
        return signal / max(signal + self.sphere_power * float(self.count @ self.noise), 1e-300)

    @property
    def is_noisy(self) -> bool:
        """Whether noise, not what the wedge's edge smears, is what limits the pose."""
        return self.signal_fraction <= MAX_SIGNAL

    def spectrum(self, reference: Reliability) -> tuple[Spectrum, float]:
        """Return samples weighted by their noise, of a particle that is the reference times a gain, and their samples per independent sample.

        What a noisy reference leaves open of the truth is noise as well, and the same in neighbouring samples: of so
        many as its window makes alike only one is independent. The samples per independent sample is the mean of how many there are for each
        independent one, over what the samples tell of the pose.
        """
        shells, radius = np.arange(len(self.noise)), self.samples.radius
        power = reference.power
        square = self._gain_square(np.maximum(power, 1e-12 * power.max()), reference.reliability)
        gain, left_open = np.sqrt(square), square * power * (1.0 - reference.reliability)
        noise = self.noise + reference.samples_per_independent * left_open
        weight = self.samples.weight / np.interp(radius, shells, noise)
        samples = replace(
            self.samples,
            value=(self.samples.value / gain.max()).astype(np.complex64),  # on the reference's scale
            transfer=np.interp(radius, shells, gain / gain.max()).astype(np.float32),
            weight=(weight / weight.mean(dtype=np.float64)).astype(np.float32),
        )
        told = self.count * shells**2 * square * power * reference.reliability / noise
        samples_per_independent = float(told @ (noise / (self.noise + left_open)) / told.sum()) if told.any() else 1.0
        return samples, samples_per_independent

    def _gain_square(self, power: NDArray[np.float64], reliability: NDArray[np.float64]) -> NDArray[np.float64]:
        """The signal over a reference's power, (s,): the most probable curve of eq. 34.

        A shell of the reference tells as much of it as it is reliable.
        """
        square = np.empty(len(power))
        gain_square(self.signal, self.noise, power, self.count * reliability, self.sphere_power, square)
        return square


@lru_cache(maxsize=REMEMBERED)
def _outside(
    box: int, voxel_size_angstrom: float, diameter_angstrom: float
) -> tuple[NDArray[np.float32], float, float, float]:
    """What lies outside a sphere, (n, n, n), its sum and mean square, and the mean square of the sphere."""
    sphere = sphere_of(box, voxel_size_angstrom, diameter_angstrom)
    outside = 1.0 - sphere
    return outside, float(outside.sum(dtype=np.float64)), float((outside**2).mean()), float((sphere**2).mean())


def _power(value: NDArray[np.complex64]) -> NDArray[np.float32]:
    return value.real**2 + value.imag**2
