"""The images of one particle as functions of the geometry of their tilts and of the particle's pose.

Owns the chain rule from what moves a single image (``kernels.tilt_equations``) to the parameters of tilts and pose
(docs/theory.md section 17). With A the projection of an image, whose rows are its axes and the beam, and X = x + t the
particle's place and shift,

    M = A R,    u = A X + d + C (x, y),    z = z_0 + dz + h ((A X)_z - (A_0 x)_z),    A = exp([w]x) A_0
    nu = B dw + det(A) A domega,    du = -[A X]x B dw + A dt + dd,    dz' = dz + h (...)_z,    B dw = J(w) E dw

J is the left Jacobian of the rotations and E has the tilt axis, the direction across it, and the beam as columns.
C (2 x 2) deforms the field, x and y in the tomogram, counted in halves of the field. Tilts' parameters are counted in
this order, the pose's as in ``gonio.particle.pose``, then the particle's contrast:

    d_x, d_y, w about the axis, across it, about the beam, dz, a_1, a_2, ln of the scale, C_xx, C_xy, C_yx, C_yy

Must not know how the equations are solved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gonio.fourier.fourier_volume import FourierVolume
from gonio.kernels.tilt_equations import PARAMETERS, WITHOUT_ASTIGMATISM, Images, sums_of, tilt_equations

Floats = NDArray[np.float64]

# Parameters of a tilt, and of a particle: rotation, shift, contrast.
TILT, POSE = 13, 7
ASTIGMATISM, SCALE, DEFORMATION = slice(6, 8), 8, slice(9, 13)


@dataclass(frozen=True)
class Blocks:
    """What one particle's images say of their tilts and its pose: parts of the normal equations of -ln L.

    ``value`` is -ln L without its constant. For each of t images ``tilt`` (t, 13, 13) and ``mixed`` (t, 13, 7) are
    second derivatives, and ``tilt_descent`` (t, 13) is minus the first; ``pose`` (7, 7) and ``pose_descent`` (7,) those
    of pose and contrast.
    """

    value: float
    tilt: Floats
    mixed: Floats
    pose: Floats
    tilt_descent: Floats
    pose_descent: Floats


@dataclass(frozen=True)
class TiltImages:
    """The t images of one particle as samples, weighted by their noise, and the geometry they were cut by.

    Parameters
    ----------
    kernel
        The samples; their weights are one over the noise of a sample and over the samples per independent one.
    radius
        Distance of the samples from zero frequency, in units of one over the box, increasing, (n,).
    tilts
        Number of each image in its tilt series, (t,).
    projections
        A_0, (t, 3, 3), in the particle's frame.
    axes
        E, (t, 3, 3): columns are the tilt axis, the direction across it and the beam, in the image's frame.
    place_angstrom
        x, the position of the box from the tomogram's centre, in the particle's frame, (3,).
    field_xy
        x and y of that position in the tomogram, in halves of the field, (2,).
    centre_angstrom
        Where each image shows its centre pixel's place in the whole tilt image, from the tomogram's centre, (t, 2).
    defocus
        Underfocus at the place and astigmatism (a_1, a_2) before any change, (t, 3).
    defocus_per_depth
        h, as in ``gonio.particle.tilt_series.TiltSeries``.
    box_angstrom
        Edge of the images.
    samples_per_independent
        Samples for each independent one, which the images' circle leaves.
    """

    kernel: Images
    radius: Floats
    tilts: NDArray[np.int64]
    projections: Floats
    axes: Floats
    place_angstrom: Floats
    field_xy: Floats
    centre_angstrom: Floats
    defocus: Floats
    defocus_per_depth: float
    box_angstrom: float
    samples_per_independent: float = 1.0

    @property
    def memory_bytes(self) -> int:
        """Memory of the samples, bytes."""
        return sum(array.nbytes for array in self.kernel)

    def offset_angstrom(self, tilts: Floats, shift_angstrom: Floats) -> Floats:
        """Return where the images show the particle, from their centre pixels, (t, 2).

        ``tilts`` (t, 13) are parameters of the images' tilts, ``shift_angstrom`` (3,) the shift of the pose.
        """
        shown = self._shown(turned_projections(self.projections, self.axes, tilts[:, 2:5]), shift_angstrom)
        return self._offset(shown, tilts)

    def _offset(self, shown: Floats, tilts: Floats) -> Floats:
        """Return where images that show the particle at A X (t, 3) have it, from their centre pixels, (t, 2)."""
        deformed = tilts[:, DEFORMATION].reshape(-1, 2, 2) @ self.field_xy
        return np.asarray(shown[:, :2] + tilts[:, :2] + deformed - self.centre_angstrom)

    def blocks(
        self,
        reference: FourierVolume,
        tilts: Floats,
        rotation: Floats,
        shift_angstrom: Floats,
        contrast: float,
        *,
        astigmatism: bool = True,
    ) -> Blocks:
        """Return the normal equations at tilts (t, 13), a pose (3, 3) and (3,), and a contrast.

        Without ``astigmatism`` its rows and columns are zeros.
        """
        a = turned_projections(self.projections, self.axes, tilts[:, 2:5])  # (t, 3, 3)
        shown, scale = self._shown(a, shift_angstrom), np.exp(tilts[:, 8])
        defocus = self._defocus_at(a, tilts, shift_angstrom)
        phase = 2.0 * np.pi / self.box_angstrom
        phases = np.concatenate([phase * self._offset(shown, tilts), np.zeros((len(a), 1))], axis=1).astype(np.float32)
        local = PARAMETERS if astigmatism else WITHOUT_ASTIGMATISM
        sums = np.empty((len(a), sums_of(local)))
        contrasts = (contrast * scale).astype(np.float32)
        tilt_equations(
            reference.kernel, self.kernel, (a @ rotation).astype(np.float32), phases, defocus.astype(np.float32),
            contrasts, local, len(self.radius), sums,
        )  # fmt: skip
        by_tilt, by_pose = self._jacobians(a, shown, tilts, contrast, scale, phase)
        hessian, descent = _unpacked(sums, local)
        follow = by_tilt.transpose(0, 2, 1) @ hessian  # (t, 13, 9)
        seen = by_pose.transpose(0, 2, 1)
        return Blocks(
            value=float(sums[:, -1].sum()),
            tilt=follow @ by_tilt,
            mixed=follow @ by_pose,
            pose=(seen @ hessian @ by_pose).sum(axis=0),
            tilt_descent=np.einsum("tap,ta->tp", by_tilt, descent),
            pose_descent=np.einsum("tap,ta->p", by_pose, descent),
        )

    def along_model(
        self, reference: FourierVolume, tilts: Floats, rotation: Floats, shift_angstrom: Floats
    ) -> tuple[Floats, Floats]:
        """Return for each shell how much of the samples lies along the model of contrast one, and the model's power.

        Both are (s,) and weighted: their ratio is the amplitude that fits best, one over the power is its variance.
        """
        model = self._transfer(tilts, shift_angstrom) * self._slices(reference, tilts, rotation, shift_angstrom)
        along = (model.conj() * self._values).real
        return tuple(self._summed(2.0 * self.kernel.weight * one) for one in (along, np.abs(model) ** 2))  # type: ignore[return-value]

    def scaled(self, amplitude: Floats) -> TiltImages:
        """Return the images to be compared with a reference whose shells have these amplitudes, (s,), of its own."""
        envelope = self.kernel.envelope * amplitude[self._shell]
        return replace(self, kernel=self.kernel._replace(envelope=envelope.astype(np.float32)))

    def weighted_by_residuals(
        self, reference: FourierVolume, tilts: Floats, rotation: Floats, shift_angstrom: Floats
    ) -> TiltImages:
        """Return the images weighted by the noise that is left at these parameters, shell by shell.

        The power of an image, by which it is weighted first, holds the particle as well: error bars would be too large.
        The amplitude of the model is the one that leaves least in a shell. Samples of a shell keep their weights
        relative to each other, and count by the square of their transfer, as in ``fourier.spectrum.noise_power``.
        """
        transfer = self._transfer(tilts, shift_angstrom)
        model = transfer * self._slices(reference, tilts, rotation, shift_angstrom)
        of = self.samples_per_independent * self.kernel.weight * transfer**2
        sums = ((model.conj() * self._values).real, np.abs(model) ** 2, np.abs(self._values) ** 2)
        along, power, noise = (self._summed(of * one) for one in sums)
        count = self._summed((self.kernel.weight > 0) * transfer**2)
        noise -= np.divide(along**2, power, out=np.zeros_like(power), where=power > 0)
        known = (count > 0) & (noise > 0)
        if not known.any():
            return self
        # How much more noise there is than the weights expect.
        more = np.interp(np.arange(len(count)), np.flatnonzero(known), noise[known] / count[known])
        weight = self.kernel.weight / more[self._shell]
        return replace(self, kernel=self.kernel._replace(weight=weight.astype(np.float32)))

    @property
    def _shell(self) -> NDArray[np.int64]:
        return np.rint(self.radius).astype(np.int64)

    def _summed(self, values: Floats) -> Floats:
        """Return the sums of values (t, n) over each shell, (s,)."""
        return np.asarray(np.bincount(self._shell, weights=values.sum(axis=0)))

    @property
    def _values(self) -> NDArray[np.complex64]:
        return np.asarray(self.kernel.value[:, 0] + 1j * self.kernel.value[:, 1])

    def _transfer(self, tilts: Floats, shift_angstrom: Floats) -> Floats:
        """Return the transfer of the samples, scale included, (t, n)."""
        a = turned_projections(self.projections, self.axes, tilts[:, 2:5])
        square, cosine, sine = self.kernel.frequency[2:].astype(np.float64)
        z, one, two = (self._defocus_at(a, tilts, shift_angstrom)[:, i, None] for i in range(3))
        linear, quartic, constant = self.kernel.lens.astype(np.float64).T[:, :, None]
        cycles = linear * (z + one * cosine + two * sine) * square + quartic * square**2 + constant
        scale = np.exp(tilts[:, 8])[:, None]
        return np.asarray(scale * self.kernel.envelope * np.sin(2.0 * np.pi * cycles))

    def _slices(
        self, reference: FourierVolume, tilts: Floats, rotation: Floats, shift_angstrom: Floats
    ) -> NDArray[np.complex128]:
        """Return the reference's spectrum at the samples, moved to where the images show the particle, (t, n)."""
        a = turned_projections(self.projections, self.axes, tilts[:, 2:5])
        frequency = self.kernel.frequency[:2].astype(np.float64)  # (2, n)
        turned = frequency.T @ (a @ rotation)[:, :2]  # (t, n, 3)
        spectrum = reference.sample(turned.reshape(-1, 3)).reshape(turned.shape[:2])
        shift = self.offset_angstrom(tilts, shift_angstrom)
        return np.asarray(np.exp(-2j * np.pi / self.box_angstrom * (shift @ frequency)) * spectrum)

    def _defocus_at(self, projections: Floats, tilts: Floats, shift_angstrom: Floats) -> Floats:
        """Return underfocus and astigmatism of the particle in each image, (t, 3)."""
        defocus = self.defocus + tilts[:, 5:8]
        depth = self._shown(projections, shift_angstrom)[:, 2] - self.projections[:, 2] @ self.place_angstrom
        defocus[:, 0] += self.defocus_per_depth * depth
        return np.asarray(defocus)

    def _shown(self, projections: Floats, shift_angstrom: Floats) -> Floats:
        """Return A X, (t, 3)."""
        return np.asarray(projections @ (self.place_angstrom + shift_angstrom))

    def _jacobians(
        self, a: Floats, shown: Floats, tilts: Floats, contrast: float, scale: Floats, phase: float
    ) -> tuple[Floats, Floats]:
        """Return the derivatives of the parameters of each image by those of tilts (t, 9, 13) and pose (t, 9, 7)."""
        count, h = len(a), self.defocus_per_depth
        turn = left_jacobian(np.einsum("tab,tb->ta", self.axes, tilts[:, 2:5])) @ self.axes  # B, (t, 3, 3)
        moved = -_cross(shown) @ turn  # d(A X)/dw, (t, 3, 3)
        by_tilt = np.zeros((count, PARAMETERS, TILT))
        by_tilt[:, 0:3, 2:5] = turn
        by_tilt[:, 3:5, 0:2] = phase * np.eye(2)
        by_tilt[:, 3:5, 2:5] = phase * moved[:, :2]
        by_tilt[:, 3, 9:11] = by_tilt[:, 4, 11:13] = phase * self.field_xy
        by_tilt[:, 5, 8] = contrast * scale
        by_tilt[:, 6, 2:5] = h * moved[:, 2]
        by_tilt[:, 6, 5] = by_tilt[:, 7, 6] = by_tilt[:, 8, 7] = 1.0
        by_pose = np.zeros((count, PARAMETERS, POSE))
        by_pose[:, 0:3, 0:3] = np.linalg.det(a)[:, None, None] * a
        by_pose[:, 3:5, 3:6] = phase * a[:, :2]
        by_pose[:, 5, 6] = scale
        by_pose[:, 6, 3:6] = h * a[:, 2]
        return by_tilt, by_pose


def turned_projections(projections: Floats, axes: Floats, turns: Floats) -> Floats:
    """Return exp([E w]x) A_0 of projections (t, 3, 3), axes E (t, 3, 3) and rotations w (t, 3), radians."""
    return np.asarray(_exponential(np.einsum("tab,tb->ta", axes, turns)) @ projections)


def _exponential(vectors: Floats) -> Floats:
    """Return exp([v]x) by Rodrigues' formula, (t, 3, 3)."""
    sine, cosine, _ = _coefficients(vectors)
    cross = _cross(vectors)
    return np.asarray(np.eye(3) + sine * cross + cosine * cross @ cross)


def left_jacobian(vectors: Floats) -> Floats:
    """Return J with exp([v + dv]x) = exp([J dv]x) exp([v]x) to first order, (t, 3, 3)."""
    _, cosine, rest = _coefficients(vectors)
    cross = _cross(vectors)
    return np.asarray(np.eye(3) + cosine * cross + rest * cross @ cross)


def _coefficients(vectors: Floats) -> tuple[Floats, Floats, Floats]:
    """Return sin(a)/a, (1 - cos a)/a^2 and (a - sin a)/a^3 of vectors' lengths, (t, 1, 1) each."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    half = np.sinc(angle / (2 * np.pi))  # sin(a/2) / (a/2)
    small = angle < 1e-2
    safe = np.where(small, 1.0, angle)
    rest = np.where(small, 1 / 6 - angle**2 / 120, (safe - np.sin(safe)) / safe**3)
    return np.sinc(angle / np.pi), 0.5 * half**2, rest


def _cross(vectors: Floats) -> Floats:
    """Return [v]x, with [v]x y = v x y, (t, 3, 3)."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)


def _unpacked(sums: Floats, local: int) -> tuple[Floats, Floats]:
    """Return second derivatives (t, 9, 9) and minus the first (t, 9) of sum w |r|^2 by the parameters of images."""
    count = len(sums)
    hessian, descent = np.zeros((count, PARAMETERS, PARAMETERS)), np.zeros((count, PARAMETERS))
    rows, columns = np.triu_indices(local)
    half = len(rows)
    hessian[:, rows, columns] = hessian[:, columns, rows] = 2.0 * sums[:, :half]
    descent[:, :local] = 2.0 * sums[:, half : half + local]
    return hessian, descent
