"""Agreement of two half maps, corrected for the mask, and evenness of an average's coverage.

A mask adds correlation. How much is estimated from half maps with random phases beyond a shell s0 up to which they
agree (Chen et al. 2013, docs/theory.md eq. 35):

    FSC = (FSC_masked - FSC_random) / (1 - FSC_random)      beyond s0 + 2,      FSC_masked up to there

FSC_random scatters, most where a small mask leaves few independent samples; so it is the mean of several draws. It is
not below zero, so that the correction never increases the FSC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.averaging.insertion import MIN_RELATIVE_WEIGHT
from gonio.fourier.fsc import fourier_shell_correlation, half_shells, resolution_at, shell_correlation
from gonio.fourier.grid import in_friedel_half, index_grid
from gonio.particle.arguments import ArgumentError
from gonio.particle.volume import Volume, mean_free_volume, mean_within

FSC_HALVES = 0.143  # of two half maps (Rosenthal & Henderson 2003)
FSC_KNOWN = 0.5  # of a map against a known one, and the older, stricter threshold for halves
# Halves agree where their FSC is above 0.143 and above this many standard deviations of chance correlation, which are
# larger in shells of few samples; 0.5 is always enough. 40 particles of noise (`experiments/refine`) reach 0.15 to 0.3
# in the lowest six shells.
CHANCE_SDS, ALWAYS_ENOUGH = 2.0, 0.5
# Phases are random from the first shell whose unmasked FSC is below this.
RANDOM_BELOW = 0.8
# Shells beyond that are not corrected either: the mask's transform, which is as wide, mixes them with lower shells.
RANDOM_MARGIN = 2
# Draws of random phases: in a mask of a fifth of 32 voxels, the error of FSC_random is then 0.03 from shell 5 on.
RANDOM_DRAWS = 12
# Tolerance for values outside 0 to 1: resampled masks ring a little.
MASK_TOLERANCE = 0.1
# Half angle of the cones over which weights of directions are averaged.
CONE_DEG = 20.0


@dataclass(frozen=True)
class HalfMapFsc:
    """Fourier shell correlations of two half maps, each of shape (n // 2 + 1,); those of a mask None without one."""

    unmasked: NDArray[np.float64]
    masked: NDArray[np.float64] | None
    randomised: NDArray[np.float64] | None
    corrected: NDArray[np.float64] | None
    box_angstrom: float
    random_from: int | None = None  # first shell with random phases in ``randomised``

    @property
    def best(self) -> NDArray[np.float64]:
        """Corrected curve, or the unmasked one without a mask."""
        return self.unmasked if self.corrected is None else self.corrected

    def resolution_angstrom(self, threshold: float = FSC_HALVES) -> float:
        """Return the resolution where the best curve first falls below a threshold; later rises do not count."""
        return resolution_at(self.best, threshold, box_angstrom=self.box_angstrom)

    @property
    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Curves that are not None, by name."""
        named = {
            "unmasked": self.unmasked,
            "masked": self.masked,
            "randomised": self.randomised,
            "corrected": self.corrected,
        }
        return {name: curve for name, curve in named.items() if curve is not None}


def half_map_fsc(
    halves: tuple[Volume, Volume],
    *,
    mask: Volume | None,
    rng: np.random.Generator,
    random_from_angstrom: float | None = None,
) -> HalfMapFsc:
    """Compute the Fourier shell correlations of two half maps, without and with a mask.

    Parameters
    ----------
    halves
        Half maps of one box.
    mask
        Values 0 to 1 in the same box; None for the unmasked curve alone.
    rng
        Generator of the random phases.
    random_from_angstrom
        Resolution from which phases are random; None for where the unmasked FSC falls below 0.8.

    Raises
    ------
    ValueError
        Boxes that differ, a mask with values beyond 0 to 1, or a resolution that the box does not have.
    """
    one, two = halves
    unmasked = fourier_shell_correlation(one, two)
    if mask is None:
        return HalfMapFsc(unmasked, None, None, None, one.box_angstrom)
    if mask.box != one.box:
        raise ValueError(f"the mask has a box of {mask.box} voxels, the half maps one of {one.box}")
    check_mask(mask)
    first = _first_random(unmasked, one.box_angstrom, random_from_angstrom)
    masked, randomised = _masked_fsc(one.data, two.data, mask), _randomised_fsc(halves, first, mask, rng)
    known = HalfMapFsc(unmasked, masked, randomised, None, one.box_angstrom, first)
    return replace(known, corrected=corrected_for_mask(masked, known))


def corrected_for_mask(masked: NDArray[np.float64], fsc: HalfMapFsc) -> NDArray[np.float64]:
    """Return curves (..., s) within a mask without what random phases have in common there; as given without a mask."""
    if fsc.randomised is None or fsc.random_from is None:
        return masked
    corrected = masked.copy()
    beyond = slice(min(fsc.random_from + RANDOM_MARGIN, masked.shape[-1]), None)
    of_mask = np.clip(fsc.randomised[beyond], 0.0, 1.0 - 1e-6)
    corrected[..., beyond] = (masked[..., beyond] - of_mask) / (1.0 - of_mask)
    return corrected


def _first_random(unmasked: NDArray[np.float64], box_angstrom: float, from_angstrom: float | None) -> int:
    """Return the first shell with random phases; the number of shells where there is none."""
    if from_angstrom is None:
        below = np.flatnonzero(unmasked[1:] < RANDOM_BELOW) + 1
        return int(below[0]) if len(below) else len(unmasked)
    first = round(box_angstrom / from_angstrom)
    if not 1 <= first < len(unmasked):
        finest = box_angstrom / (len(unmasked) - 1)
        raise ArgumentError(
            "{} {got:g} is not between one shell of the box, {coarsest:g} angstrom, and two voxels, {finest:g}",
            "random_from_angstrom",
            got=from_angstrom,
            coarsest=box_angstrom,
            finest=finest,
        )
    return first


def agreed_shell(fsc: HalfMapFsc, mask: Volume) -> float:
    """Return the shell, a fractional number, to which the FSC of halves under a mask is above what chance may reach."""
    enough = np.clip(CHANCE_SDS / np.sqrt(independent_samples(mask)), FSC_HALVES, ALWAYS_ENOUGH)
    return fsc.box_angstrom / resolution_at(fsc.best - enough, 0.0, box_angstrom=fsc.box_angstrom)


def independent_samples(mask: Volume) -> NDArray[np.float64]:
    """Return the number of independent samples in each shell 0..n//2 of a volume under a mask, (n // 2 + 1,).

    It is half of a shell, as the others are Friedel mates, times the fraction of the box that the mask keeps. The FSC
    of uncorrelated volumes has a standard deviation of one over its root.
    """
    shell = np.rint(np.linalg.norm(index_grid(mask.box), axis=-1)).astype(int).ravel()
    count = np.bincount(shell)[: mask.box // 2 + 1] / 2.0
    return np.maximum(count * float((mask.data.astype(np.float64) ** 2).mean()), 1.0)


def fsc_of_a_half(fsc: NDArray[np.float64], *, left: float = 1.0) -> NDArray[np.float64]:
    """Return the expected FSC (s,) of half maps made from a fraction ``left`` of one half, from the halves' FSC (s,).

    A map of FSC F correlates with the truth by sqrt(2 F / (1 + F)), each of its halves by sqrt(F). The signal-to-noise
    ratio F / (1 - F) is proportional to the number of particles.
    """
    clipped = np.clip(fsc, 0.0, 1.0)
    fewer = left * clipped / np.maximum(1.0 - (1.0 - left) * clipped, 1e-9)
    return np.asarray(fewer / (2.0 - fewer))


def check_mask(mask: Volume) -> None:
    """Raise ValueError where a mask has values beyond 0 to 1."""
    low, high = float(mask.data.min()), float(mask.data.max())
    if low < -MASK_TOLERANCE or high > 1.0 + MASK_TOLERANCE or not high > 0:
        raise ValueError(
            f"a mask holds values from 0 to 1, this one {low:g} to {high:g}: is it a map? scale it, or give none"
        )


def with_random_phases(
    spectrum: NDArray[np.complexfloating], first_shell: int, rng: np.random.Generator
) -> NDArray[np.floating]:
    """Return the voxels of a spectrum in the order of ``rfftn``, with random phases from a shell on."""
    shape = (len(spectrum),) * 3
    beyond = half_shells(len(spectrum))[0].reshape(spectrum.shape) >= first_shell
    return np.asarray(scipy.fft.irfftn(np.where(beyond, np.abs(spectrum) * _phases(shape, rng), spectrum), shape))


def _phases(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.complex64]:
    """Return random phase factors in the order of ``rfftn``, (n, n, n // 2 + 1); opposite samples are conjugate."""
    depth = shape[-1] // 2 + 1
    angle = rng.random((*shape[:2], depth), dtype=np.float32)  # in turns
    phase = np.exp(2j * np.float32(np.pi) * angle)  # complex64
    # Both samples of an opposite pair are stored where x is its own opposite: as the phases of a real image there.
    for x in {0, shape[-1] // 2} if shape[-1] % 2 == 0 else {0}:
        noise = scipy.fft.fft2(rng.normal(size=shape[:2]))
        phase[:, :, x] = noise / np.maximum(np.abs(noise), 1e-300)
    return np.asarray(phase, dtype=np.complex64)


def _randomised_fsc(
    halves: tuple[Volume, Volume], first_shell: int, mask: Volume, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean FSC within the mask over draws of random phases from a shell on."""
    # In single precision: the mean of many draws needs no more, and at 256 voxels it is half of the time.
    spectra = [scipy.fft.rfftn(mean_free_volume(half).data) for half in halves]
    draws = []
    for _ in range(RANDOM_DRAWS):
        one, two = (with_random_phases(spectrum, first_shell, rng) for spectrum in spectra)
        draws.append(_masked_fsc(one, two, mask))
    return np.mean(draws, axis=0)  # type: ignore[no-any-return]


def _masked_fsc(one: NDArray, two: NDArray, mask: Volume) -> NDArray[np.float64]:
    """Return the FSC within the mask, without the solvent's mean, with which the mask would correlate."""
    return shell_correlation(*masked_spectra(one, two, mask.data))


def masked_spectra(one: NDArray, two: NDArray, mask: NDArray) -> tuple[NDArray, NDArray]:
    """Return the spectra of two maps within a mask, after subtraction of the solvent's mean, in order of ``rfftn``."""
    solvent = np.clip(1.0 - mask, 0.0, 1.0)
    first, second = (scipy.fft.rfftn((data - mean_within(data, solvent)) * mask) for data in (one, two))
    return first, second


@dataclass(frozen=True)
class Evenness:
    """Evenness of an average's coverage.

    Attributes
    ----------
    seen
        Fraction of frequencies with a weight of at least a hundredth of their shell's mean.
    least
        The smallest weight, in units of its shell's mean.
    efficiency
        1 / (mean(W) mean(1 / W)) over the directions of a shell, the mean of all shells: the signal-to-noise ratio of
        the map over that of one with the same total weight, evenly distributed (Baldwin & Lyumkis 2020). W is the
        weight that the map is divided by, at least a tenth of its shell's mean.
    worst_xyz, worst
        Direction with the least weight about it, a unit vector, and the mean weight in a cone of 20 degrees about it,
        in units of that of all directions.
    """

    seen: float
    least: float
    efficiency: float
    worst_xyz: NDArray[np.float64]
    worst: float


def evenness(coverage: NDArray[np.float32]) -> Evenness:
    """Return the evenness of an average's coverage (n, n, n), zero frequency at n // 2."""
    index = index_grid(len(coverage)).reshape(-1, 3)
    shell = np.rint(np.linalg.norm(index, axis=1)).astype(np.int64)
    inside = in_friedel_half(index) & (shell <= (len(coverage) - 1) // 2)
    index, shell, weight = index[inside], shell[inside], coverage.ravel()[inside].astype(np.float64)
    count = np.bincount(shell)[1:]
    mean = np.bincount(shell, weights=weight)[1:] / count
    relative = weight / np.maximum(mean, 1e-30)[shell - 1]
    harmonic = np.bincount(shell, weights=1.0 / np.maximum(relative, MIN_RELATIVE_WEIGHT))[1:] / count
    direction = index / np.linalg.norm(index, axis=1, keepdims=True)
    cones = [relative[np.abs(direction @ axis) > np.cos(np.radians(CONE_DEG))].mean() for axis in _AXES]
    worst = int(np.argmin(cones))
    return Evenness(
        seen=float((relative >= 0.01).mean()),
        least=float(relative.min()),
        efficiency=float((1.0 / harmonic).mean()),
        worst_xyz=_AXES[worst],
        worst=float(cones[worst]),
    )


def half_sphere(count: int) -> NDArray[np.float64]:
    """Return directions (count, 3), even over z >= 0: a golden spiral that begins at z."""
    z = 1.0 - np.arange(count) / count
    azimuth = np.pi * (1.0 + np.sqrt(5.0)) * np.arange(count)
    return np.stack([np.sqrt(1.0 - z**2) * np.cos(azimuth), np.sqrt(1.0 - z**2) * np.sin(azimuth), z], axis=1)


_AXES = half_sphere(200)
