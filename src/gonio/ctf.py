"""The contrast transfer function of the microscope and the decay of signal with dose.

Owns the one formula for both (simulation, tilt stacks and averages call it). Signs are those of a particle whose
density is positive: the transfer is positive at low frequency for underfocus (docs/theory.md eq. 22).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Ctf", "dose_decay", "electron_wavelength_angstrom"]


def electron_wavelength_angstrom(voltage_kv: float) -> float:
    """Relativistic electron wavelength, angstrom (Reimer & Kohl 2008, eq. 2.12)."""
    volts = 1e3 * voltage_kv
    return 12.2643 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts))


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
        Of the microscope; amplitude contrast is a fraction.
    """

    defocus_u_angstrom: ArrayLike
    defocus_v_angstrom: ArrayLike
    astigmatism_deg: ArrayLike = 0.0
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07

    def transfer(self, frequency_xy_per_angstrom: ArrayLike) -> NDArray[np.float64]:
        """Transfer at image frequencies.

        Parameters
        ----------
        frequency_xy_per_angstrom
            Shape (s, 2), xy order, 1/angstrom.

        Returns
        -------
        Shape (s,) for scalar defocus, (t, s) for a batch.
        """
        frequency = np.asarray(frequency_xy_per_angstrom, dtype=np.float64)
        square = (frequency**2).sum(axis=-1)  # (s,)
        direction = np.arctan2(frequency[..., 1], frequency[..., 0])
        u, v, astigmatism = (
            np.asarray(x, dtype=np.float64)[..., None]
            for x in (self.defocus_u_angstrom, self.defocus_v_angstrom, np.radians(self.astigmatism_deg))
        )
        defocus = 0.5 * (u + v + (u - v) * np.cos(2.0 * (direction - astigmatism)))  # (t, s)
        wavelength = electron_wavelength_angstrom(self.voltage_kv)
        aberration = 1e7 * self.spherical_aberration_mm
        phase = np.pi * wavelength * defocus * square - 0.5 * np.pi * aberration * wavelength**3 * square**2
        shift = np.arctan2(self.amplitude_contrast, np.sqrt(1.0 - self.amplitude_contrast**2))
        return np.sin(phase + shift)


def dose_decay(frequency_per_angstrom: ArrayLike, dose: ArrayLike) -> NDArray[np.float64]:
    """Signal left after ``dose`` electrons per square angstrom (Grant & Grigorieff 2015, eqs. 3 and 5).

    Parameters
    ----------
    frequency_per_angstrom
        Shape (s,), 1/angstrom.
    dose
        Accumulated exposure, shape (t,).

    Returns
    -------
    Shape (t, s), between 0 and 1.
    """
    frequency = np.maximum(np.asarray(frequency_per_angstrom, dtype=np.float64), 1e-6)
    critical = 0.24499 * frequency**-1.6649 + 2.8141
    return np.exp(-0.5 * np.asarray(dose, dtype=np.float64)[..., None] / critical)
