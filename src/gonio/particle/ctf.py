"""The transfer of an image: the microscope's contrast transfer, its envelope, and the decay of signal with dose.

Owns the one formula for all of them (simulation, tilt stacks, weights of subtomograms and averages call it):

    H(k) = scale sin(pi lambda z k^2 - pi Cs lambda^3 k^4 / 2 + chi_0 + phase shift) exp(-B k^2 / 4) decay(k, dose)

with tan chi_0 = Q / sqrt(1 - Q^2), Q the amplitude contrast (docs/theory.md eq. 22; RELION src/ctf.h, CTF::getCTF, of
which this is the negative argument's sine). Signs are those of a particle whose density is positive: the transfer is
positive at low frequency for underfocus. Defocus z depends on direction where there is astigmatism, and on where a
particle is along the beam (``Ctf.refocused``, ``gonio.particle.tilt_series``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Frozen-hydrated protein at 300 kV (Toyoshima & Unwin 1988); used where no other value is given.
AMPLITUDE_CONTRAST = 0.07
# Samples of premultiplied images with a smaller transfer hold only rounding errors and leakage.
MIN_TRANSFER = 0.02


def electron_wavelength_angstrom(voltage_kv: float) -> float:
    """Return the relativistic electron wavelength, angstrom (Reimer & Kohl 2008, eq. 2.12)."""
    volts = 1e3 * voltage_kv
    angstrom: float = 12.2643 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts))
    return angstrom


@dataclass(frozen=True)
class Ctf:
    """Defocus and optics of one image, or of a batch of t images.

    Parameters
    ----------
    defocus_u_angstrom, defocus_v_angstrom
        Underfocus along and across the astigmatism direction, positive, scalars or shape (t,).
    astigmatism_deg
        Direction of ``defocus_u_angstrom`` from the image's x axis, degrees, scalar or shape (t,).
    voltage_kv, spherical_aberration_mm, amplitude_contrast
        The microscope; amplitude contrast is a fraction. The aberration is a scalar or of shape (t,): M fits it.
    phase_shift_deg
        Phase shift by a phase plate, degrees, scalar or shape (t,).
    bfactor_angstrom2
        B of the envelope ``exp(-B k^2 / 4)``, square angstrom, positive where it damps, scalar or shape (t,).
    """

    defocus_u_angstrom: ArrayLike
    defocus_v_angstrom: ArrayLike
    astigmatism_deg: ArrayLike = 0.0
    voltage_kv: float = 300.0
    spherical_aberration_mm: ArrayLike = 2.7
    amplitude_contrast: float = AMPLITUDE_CONTRAST
    phase_shift_deg: ArrayLike = 0.0
    bfactor_angstrom2: ArrayLike = 0.0

    def refocused(self, by_angstrom: ArrayLike) -> Ctf:
        """Return this transfer with the underfocus increased by ``by_angstrom``, scalar or shape (t,)."""
        by = np.asarray(by_angstrom, dtype=np.float64)
        u, v = np.asarray(self.defocus_u_angstrom) + by, np.asarray(self.defocus_v_angstrom) + by
        astigmatism = np.broadcast_to(self.astigmatism_deg, u.shape)
        return replace(self, defocus_u_angstrom=u, defocus_v_angstrom=v, astigmatism_deg=astigmatism)

    @property
    def cycles(self) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients l, q and c of the sine's phase over 2 pi, l z k^2 + q k^4 + c; q and c are scalars or (t,)."""
        wavelength = electron_wavelength_angstrom(self.voltage_kv)
        aberration = 1e7 * np.asarray(self.spherical_aberration_mm, dtype=np.float64)
        shift = np.arctan2(self.amplitude_contrast, np.sqrt(1.0 - self.amplitude_contrast**2))
        plate = np.radians(np.asarray(self.phase_shift_deg, dtype=np.float64))
        return 0.5 * wavelength, -0.25 * aberration * wavelength**3, (shift + plate) / (2.0 * np.pi)

    def transfer(self, frequency_xy_per_angstrom: ArrayLike) -> NDArray[np.float64]:
        """Return the transfer at image frequencies.

        Parameters
        ----------
        frequency_xy_per_angstrom
            Shape (s, 2), or (..., 2) for scalar defocus, xy order, 1/angstrom.

        Returns
        -------
        Shape (s,) or (...) for scalar defocus, (t, s) for a batch.
        """
        frequency = np.asarray(frequency_xy_per_angstrom, dtype=np.float64)
        square = (frequency**2).sum(axis=-1)  # (s,)
        direction = np.arctan2(frequency[..., 1], frequency[..., 0])
        u, v, astigmatism, aberration, plate, bfactor = (
            np.asarray(x, dtype=np.float64)[..., None]
            for x in (
                self.defocus_u_angstrom,
                self.defocus_v_angstrom,
                np.radians(self.astigmatism_deg),
                1e7 * np.asarray(self.spherical_aberration_mm),
                np.radians(self.phase_shift_deg),
                self.bfactor_angstrom2,
            )
        )
        defocus = 0.5 * (u + v + (u - v) * np.cos(2.0 * (direction - astigmatism)))  # (t, s)
        wavelength = electron_wavelength_angstrom(self.voltage_kv)
        phase = np.pi * wavelength * defocus * square - 0.5 * np.pi * aberration * wavelength**3 * square**2
        shift = np.arctan2(self.amplitude_contrast, np.sqrt(1.0 - self.amplitude_contrast**2))
        transfer: NDArray[np.float64] = np.sin(phase + shift + plate) * np.exp(-0.25 * bfactor * square)
        return transfer


def mean_and_astigmatism(defocus: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean underfocus z and a_1, a_2 of images, from U, V (angstrom) and the direction of U (degrees).

    Defocus in the direction phi from the image's x axis is z + a_1 cos(2 phi) + a_2 sin(2 phi). Both are (t, 3).
    """
    u, v, angle = defocus.T
    difference = 0.5 * (u - v) * np.exp(2j * np.radians(angle))
    return np.stack([0.5 * (u + v), difference.real, difference.imag], axis=1)


def image_transfer(
    frequency_xy_per_angstrom: ArrayLike,
    ctf: Ctf | None,
    *,
    scale: ArrayLike | None = None,
    dose: ArrayLike | None = None,
    bfactor_per_dose: float = 0.0,
) -> NDArray[np.float64]:
    """Return the factor by which imaging multiplies a particle's spectrum in each of t images.

    Parameters
    ----------
    frequency_xy_per_angstrom
        Shape (s, 2) where all images are sampled alike, xy order, 1/angstrom.
    ctf
        Contrast transfer, or None for a perfect lens.
    scale
        Relative strength of each image, scalar or shape (t,), or None.
    dose, bfactor_per_dose
        Exposure before each image, scalar or shape (t,), or None, as in ``dose_decay``.

    Returns
    -------
    Shape (t, s), or (s,) where everything is a scalar.
    """
    frequency = np.asarray(frequency_xy_per_angstrom, dtype=np.float64)
    transfer = np.ones(len(frequency)) if ctf is None else ctf.transfer(frequency)
    if scale is not None:
        transfer = transfer * np.asarray(scale, dtype=np.float64)[..., None]
    if dose is not None:
        transfer = transfer * dose_decay(np.linalg.norm(frequency, axis=-1), dose, bfactor_per_dose=bfactor_per_dose)
    return transfer


def dose_decay(
    frequency_per_angstrom: ArrayLike, dose: ArrayLike, *, bfactor_per_dose: float = 0.0
) -> NDArray[np.float64]:
    """Return the fraction of signal left after ``dose`` (Grant & Grigorieff 2015, eqs. 3 and 5).

    With a B factor per dose it is ``exp(-B dose k^2 / 4)`` instead (RELION src/jaz/optics/damage.cpp).

    Parameters
    ----------
    frequency_per_angstrom
        Shape (s,), 1/angstrom.
    dose
        Accumulated exposure, electrons per square angstrom, shape (t,).
    bfactor_per_dose
        Square angstrom for each electron per square angstrom; 0 for the measured decay.

    Returns
    -------
    Shape (t, s), between 0 and 1.
    """
    frequency = np.maximum(np.asarray(frequency_per_angstrom, dtype=np.float64), 1e-6)
    if bfactor_per_dose > 0:
        return np.asarray(
            np.exp(-0.25 * bfactor_per_dose * np.asarray(dose, dtype=np.float64)[..., None] * frequency**2)
        )
    critical = 0.24499 * frequency**-1.6649 + 2.8141
    return np.exp(-0.5 * np.asarray(dose, dtype=np.float64)[..., None] / critical)
