"""FSC of two half maps by direction, in cones, and how far a map's resolution depends on direction.

The FSC of a cone is that of the samples within CONE_DEG of a direction or its opposite (docs/theory.md eq. 48), within
the mask and corrected for it by the same random phases as the FSC of all directions. One number states how even the
directions are: anisotropy = 1 - k_worst / k_best, where the FSC of the worst and of the best direction falls below a
threshold. Chance alone makes the extremes of many directions differ; how much is found with isotropic maps of the same
FSC, within the same mask (eq. 49).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.averaging.resolution import (
    CONE_DEG,
    FSC_HALVES,
    HalfMapFsc,
    corrected_for_mask,
    half_sphere,
    masked_spectra,
)
from gonio.fourier.fsc import half_shells, resolution_at
from gonio.particle.volume import Volume

DIRECTIONS = 100
# Isotropic maps that are compared: 19 for a level of 5 %.
CHANCE_DRAWS = 19
# A cone's FSC of fewer samples (k and -k are two) may be anything.
FEW = 24
# Pixels along an edge of each of the three faces of half a cube: each is 90 / EDGE degrees wide, with the axes of the
# box in the middle of theirs.
EDGE = 25


@dataclass(frozen=True)
class DirectionalFsc:
    """FSC by direction.

    Attributes
    ----------
    direction_xyz
        Axes of the cones, unit vectors, (d, 3).
    fsc
        FSC of each cone, (d, s), corrected for the mask as that of all directions.
    box_angstrom
        Edge of the box.
    by_chance
        Anisotropy of isotropic maps of the same FSC within the same mask, (draws,).
    """

    direction_xyz: NDArray[np.float64]
    fsc: NDArray[np.float64]
    box_angstrom: float
    by_chance: NDArray[np.float64]

    @property
    def resolution_angstrom(self) -> NDArray[np.float64]:
        """Resolution in each direction, (d,); infinite where shell 1 is below the threshold."""
        return _resolutions(self.fsc, self.box_angstrom)

    @property
    def anisotropy(self) -> float:
        """1 - k_worst / k_best: 0 where all directions are alike, 1 where one has nothing."""
        return _anisotropy(self.fsc, self.box_angstrom)

    @property
    def chance(self) -> float:
        """The largest anisotropy of 19 isotropic maps, which another one exceeds in 5 % of cases."""
        return float(self.by_chance.max())

    @property
    def is_chance(self) -> bool:
        """Whether an isotropic map may be as anisotropic."""
        return self.anisotropy <= self.chance

    @property
    def worst_xyz(self) -> NDArray[np.float64]:
        """Direction with the coarsest resolution, a unit vector."""
        return np.asarray(self.direction_xyz[np.argmax(self.resolution_angstrom)])


def directional_fsc(
    halves: tuple[Volume, Volume], *, mask: Volume | None, fsc: HalfMapFsc, rng: np.random.Generator
) -> DirectionalFsc:
    """Compute the FSC of two half maps in cones about directions that are even over the half sphere.

    Parameters
    ----------
    halves, mask
        As for ``half_map_fsc``.
    fsc
        What that returned for them.
    rng
        Generator of the isotropic maps.
    """
    one, two = halves
    box, axes = one.box, half_sphere(DIRECTIONS)
    cones = _Cones(box, axes)
    window = np.ones(one.data.shape, np.float32) if mask is None else mask.data
    curves = corrected_for_mask(cones.fsc(*masked_spectra(one.data, two.data, window)), fsc)
    within = np.clip(fsc.unmasked if fsc.masked is None else fsc.masked, 0.0, 1.0)
    chance = [
        _anisotropy(corrected_for_mask(cones.fsc(*_isotropic(within, window, rng)), fsc), fsc.box_angstrom)
        for _ in range(CHANCE_DRAWS)
    ]
    return DirectionalFsc(axes, curves, fsc.box_angstrom, np.array(chance))


class _Cones:
    """The samples of a spectrum (n, n, n // 2 + 1) by shell and small piece of the sphere, and the pieces of cones."""

    def __init__(self, box: int, axes_xyz: NDArray[np.float64]) -> None:
        shell, times = half_shells(box)
        self.shells = box // 2 + 1
        inside = shell < self.shells
        self.inside, self.times = inside, times[inside].astype(np.float32)
        self.place = _pixel(box)[inside] * self.shells + shell[inside]
        near = np.abs(axes_xyz @ _pixel_axes().T) >= np.cos(np.radians(CONE_DEG))
        self.member = np.vstack([near, np.ones(near.shape[1])])  # (d + 1, pixels)
        self.few = self._sums(np.ones(len(self.place), np.float32)) < FEW

    def fsc(self, first: NDArray[np.complex64], second: NDArray[np.complex64]) -> NDArray[np.float64]:
        """Return the FSC of two spectra in each cone, (d, s); shell 0 is set to 1.

        In the first shells a cone with less than FEW samples has the FSC of its whole shell.
        """
        one, two = first.ravel()[self.inside], second.ravel()[self.inside]
        cross, power, other = (
            self._sums(product)  # (d + 1, s), the last of all samples
            for product in (
                one.real * two.real + one.imag * two.imag,
                one.real**2 + one.imag**2,
                two.real**2 + two.imag**2,
            )
        )
        curves = cross / np.sqrt(np.maximum(power * other, 1e-300))
        curves = np.where(self.few, curves[-1], curves)[:-1]
        curves[:, 0] = 1.0
        return np.asarray(curves)

    def _sums(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the sums of samples in each cone and shell, (d, s)."""
        pixels = np.bincount(self.place, weights=self.times * values, minlength=self.member.shape[1] * self.shells)
        return np.asarray(self.member @ pixels.reshape(-1, self.shells))


def _pixel(box: int) -> NDArray[np.int64]:
    """Return the piece of half a cube that each sample of ``rfftn`` is seen through from zero frequency, flat.

    k and -k are alike. Faces are those of x, y and z, each EDGE x EDGE pixels of equal angles.
    """
    whole, half = scipy.fft.fftfreq(box, 1.0 / box), scipy.fft.rfftfreq(box, 1.0 / box)
    z, y, x = (np.asarray(a, np.float32) for a in (whole[:, None, None], whole[None, :, None], half[None, None, :]))
    xyz = [np.broadcast_to(a, (box, box, len(half))) for a in (x, y, z)]
    largest = np.maximum(np.maximum(abs(x), abs(y)), abs(z))
    result = np.zeros(largest.shape, np.int64)
    taken = np.zeros(largest.shape, bool)
    for face, (first, second) in enumerate(_OTHERS):
        here = ~taken & (np.abs(xyz[face]) == largest) & (largest > 0)
        major = xyz[face][here]
        row, column = (_cell(xyz[axis][here] / major) for axis in (first, second))
        result[here] = (face * EDGE + row) * EDGE + column
        taken |= here
    return result.ravel()


# The two axes other than that of each face.
_OTHERS = ((1, 2), (0, 2), (0, 1))


def _cell(slope: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the row or column of slopes from -1 to 1."""
    turned = np.arctan(slope) * (4.0 / np.pi)
    return np.clip((turned + 1.0) * (EDGE / 2.0), 0, EDGE - 1).astype(np.int64)


def _pixel_axes() -> NDArray[np.float64]:
    """Return the directions of the middles of all pixels, (3 EDGE^2, 3)."""
    middle = np.tan(((np.arange(EDGE) + 0.5) * (2.0 / EDGE) - 1.0) * np.pi / 4.0)
    row, column = (a.ravel() for a in np.meshgrid(middle, middle, indexing="ij"))
    faces = []
    for first, second in _OTHERS:
        axes = np.ones((len(row), 3))
        axes[:, first], axes[:, second] = row, column
        faces.append(axes / np.linalg.norm(axes, axis=1, keepdims=True))
    return np.concatenate(faces)


def _isotropic(
    fsc: NDArray[np.float64], window: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Return the spectra of two maps within a window whose FSC is the same in all directions."""
    box = len(window)
    shell = half_shells(box)[0]
    of_shell = np.zeros(int(shell.max()) + 1, np.float32)
    of_shell[: len(fsc)] = fsc
    signal_part, noise_part = (np.sqrt(part)[shell].reshape(box, box, -1) for part in (of_shell, 1.0 - of_shell))

    def white() -> NDArray[np.complex64]:
        return np.asarray(scipy.fft.rfftn(rng.standard_normal(window.shape, dtype=np.float32) * window))

    signal = signal_part * white()
    return signal + noise_part * white(), signal + noise_part * white()


def _resolutions(fsc: NDArray[np.float64], box_angstrom: float) -> NDArray[np.float64]:
    return np.array([resolution_at(curve, FSC_HALVES, box_angstrom=box_angstrom) for curve in fsc])


def _anisotropy(fsc: NDArray[np.float64], box_angstrom: float) -> float:
    frequency = 1.0 / _resolutions(fsc, box_angstrom)
    return float(1.0 - frequency.min() / frequency.max()) if frequency.max() > 0 else 0.0
