"""The microscope: from a density and a pose to a subtomogram or a stack of tilt images whose truth is known.

Owns the imaging chain of Xu & Alber 2012 (section "Generating simulated cryo-electron tomograms"), one function a step:

    project at every tilt -> add noise -> CTF -> MTF -> weighted back-projection

Tilt theta rotates the specimen right-handed by theta about the tilt axis a; the beam runs along z. With b = a x z, the
image axes of a reconstruction are d(theta) = b cos(theta) + z sin(theta) and a in the specimen's frame, as in
``gonio.particle.wedge``. Back-projection of images g at tilts theta_i is

    V(p) = sum_i w_i sum_j K(p.d_i - j) g_i(j, p.a)            K(s) = sinc(s) / 2 - sinc(s / 2)^2 / 4

with w_i the angle that a tilt represents and K the ramp filter |k| cut at the Nyquist frequency, a closed form: the
filter and the interpolation between pixels are one exact sum. Projections come from the density's own formula, on a
field wider than the box, so that the box is filled to its corners. It knows nothing of alignment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from gonio.particle.arguments import ArgumentError, described
from gonio.particle.ctf import AMPLITUDE_CONTRAST, Ctf, electron_wavelength_angstrom
from gonio.particle.pose import Pose
from gonio.particle.volume import MIN_BOX, Subtomogram, TiltStack, Volume, same_size
from gonio.particle.wedge import SingleAxisWedge
from gonio.simulate.phantom import Density, Phantom

# Xu & Alber 2012: Cs 2 mm, defocus 4 um; 300 kV puts the first zero at 0.356/nm.
PAPER_CTF = Ctf(40_000.0, 40_000.0, voltage_kv=300.0, spherical_aberration_mm=2.0, amplitude_contrast=0.0)
# The same lens with the amplitude contrast of ice-embedded protein, without which the lowest shells would be empty.
DEFAULT_CTF = replace(PAPER_CTF, amplitude_contrast=AMPLITUDE_CONTRAST)

# Defaults where neither imaging nor phantom gives them.
DEFAULT_BOX, DEFAULT_VOXEL_SIZE_ANGSTROM = 32, 10.0

_MATRIX_ENTRIES = 2**26  # 256 MB of float32, 121 tilts of a box of 64; of larger back-projections a part at a time
_NO_DISTANCE = 1e-4  # radians, below which the ramp filter is 1/4 to 1e-9
SPLINE_OVERSAMPLING = 4  # cubic splines err by (f / (1 - f))^4 = 4e-4 at the image's Nyquist frequency, f = 1/8


class CtfCorrection(StrEnum):
    """Correction of the CTF's sign before a subtomogram is reconstructed.

    TRUNCATED leaves out frequencies beyond the first zero, as the paper does; FLIPPED flips the phases where the sign
    is negative, so that the CTF's absolute value remains. For a full correction leave out the CTF (``ctf=None``).
    """

    TRUNCATED = "truncated"
    FLIPPED = "flipped"


@dataclass(frozen=True)
class Imaging:
    """Imaging of a particle; the defaults are the paper's, but for an amplitude contrast of 0.07 (the paper's is 0).

    Parameters
    ----------
    box
        Voxels along an edge of the subtomogram, n >= 8; None for that of the phantom, else 32.
    voxel_size_angstrom
        Voxel size of the subtomogram and of the tilt images; None for that of the phantom, else 10.
    tilt_min_deg, tilt_max_deg, tilt_step_deg
        First and last tilt and the step between; the range must be a whole number of steps.
    axis_deg
        Direction of the tilt axis in the xy plane, degrees from x towards y; 90 is y, and the fastest.
    snr
        Variance of the noise-free images over that of the noise; infinite for no noise.
    ctf
        CTF of every tilt: underfocus without astigmatism, with the phase shift of a phase plate if there is one; None
        for a perfect lens.
    detector_mtf
        Whether the detector blurs (``mtf``).
    correction
        Correction of the CTF in subtomograms; tilt images keep the whole CTF.
    """

    box: int = None  # type: ignore[assignment]  # a number once the density is known (``of``)
    voxel_size_angstrom: float = None  # type: ignore[assignment]
    tilt_min_deg: float = -60.0
    tilt_max_deg: float = 60.0
    tilt_step_deg: float = 1.0
    axis_deg: float = 90.0
    snr: float = np.inf
    ctf: Ctf | None = DEFAULT_CTF
    detector_mtf: bool = True
    correction: CtfCorrection = CtfCorrection.TRUNCATED

    def __post_init__(self) -> None:
        box, size = self._frame
        if box < MIN_BOX:
            raise ArgumentError("{} must be at least {least} voxels, got {got!r}", "box", least=MIN_BOX, got=box)
        if not (np.isfinite(size) and size > 0):
            raise ArgumentError("{} must be a positive number, got {got!r}", "voxel_size_angstrom", got=size)
        if not self.snr > 0:
            raise ArgumentError("{} must be positive, inf for no noise, got {got!r}", "snr", got=self.snr)
        if self.ctf is not None:
            _check_ctf(self.ctf)
        _ = self.wedge, self.tilts_deg  # each checks its own arguments

    @property
    def tilts_deg(self) -> NDArray[np.float64]:
        """Tilt angles, degrees, shape (t,)."""
        return tilt_angles_deg(self.tilt_min_deg, self.tilt_max_deg, step_deg=self.tilt_step_deg)

    @property
    def wedge(self) -> SingleAxisWedge:
        """Wedge of the tilts."""
        return SingleAxisWedge(self.tilt_min_deg, self.tilt_max_deg, self.axis_deg)

    @property
    def _frame(self) -> tuple[int, float]:
        """Box and voxel size; the defaults where they are not given."""
        size = DEFAULT_VOXEL_SIZE_ANGSTROM if self.voxel_size_angstrom is None else self.voxel_size_angstrom
        return DEFAULT_BOX if self.box is None else self.box, size

    def of(self, density: Density) -> Imaging:
        """Return this imaging with the box and the voxel size of the density where it has none itself.

        Raises
        ------
        ValueError
            When both have them and they differ.
        """
        if isinstance(density, Phantom):
            for name in ("box", "voxel_size_angstrom"):
                own, its = getattr(self, name), getattr(density, name)
                if None not in (own, its) and not same_size(own, its):
                    raise ValueError(
                        f"the phantom was made for {name}={its:g}, the imaging has {name}={own:g}: leave it out of the"
                        " imaging, make the phantom for it, or take phantom.unframed() if another is meant"
                    )
            chosen = self.box or density.box, self.voxel_size_angstrom or density.voxel_size_angstrom
            self = replace(self, box=chosen[0], voxel_size_angstrom=chosen[1])  # type: ignore[arg-type]
        box, size = self._frame
        return replace(self, box=box, voxel_size_angstrom=size)

    @property
    def field_yx(self) -> tuple[int, int]:
        """Size of the simulated images, pixels: across the axis the box's diagonal fits, with margins of n/4."""
        box = self._frame[0]
        along = 3 * box // 2 if self.axis_deg == 90.0 else 2 * box
        return along, 2 * box

    def transfer(self) -> NDArray[np.float64]:
        """Return the corrected CTF times the MTF on the half plane of ``rfft2`` of the field, shape (y, x // 2 + 1)."""
        size = self._frame[1]
        frequency = _image_frequencies(self.field_yx, size)
        radius = np.linalg.norm(frequency, axis=-1)
        contrast, nyquist = self._contrast(frequency), 0.5 / size
        return contrast * mtf(radius / nyquist) if self.detector_mtf else contrast

    def _contrast(self, frequency_xy_per_angstrom: NDArray) -> NDArray[np.float64]:
        """Return the corrected CTF at frequencies (..., 2)."""
        if self.ctf is None:
            return np.ones(frequency_xy_per_angstrom.shape[:-1])
        if self.correction == CtfCorrection.FLIPPED:
            return np.abs(self.ctf.transfer(frequency_xy_per_angstrom))
        return truncated_ctf(frequency_xy_per_angstrom, ctf=self.ctf)


def simulate_subtomogram(density: Density, pose: Pose, *, imaging: Imaging, rng: np.random.Generator) -> Subtomogram:
    """Simulate the subtomogram that a microscope would measure of the particle at ``pose``.

    Parameters
    ----------
    density
        A ``Phantom``, a ``Structure``, or any other ``Density``.
    pose
        True pose of the particle, a single one.
    imaging
        Tilts, CTF, noise and box.
    rng
        Generator of the noise; not used when ``imaging.snr`` is infinite.

    Returns
    -------
    The reconstruction, whose wedge is ``imaging.wedge``. Without CTF, MTF, noise and a missing wedge it is the
    density itself, in its units.
    """
    # Rotate about z, so that the axis becomes y and the images' axes are d(theta) and a.
    imaging = imaging.of(density)
    upright = Pose(Rotation.from_rotvec([0.0, 0.0, 90.0 - imaging.axis_deg], degrees=True), np.zeros(3))
    tilts = imaging.tilts_deg
    poses = tilt_poses(upright @ pose, tilts, axis_deg=90.0)
    noise_free = density.projections(poses, shape_yx=imaging.field_yx, voxel_size_angstrom=imaging.voxel_size_angstrom)
    noisy = add_noise(noise_free.astype(np.float32), snr=imaging.snr, box=imaging.box, rng=rng)
    images = apply_transfer(noisy, imaging.transfer())
    data = back_project(images, tilts, box=imaging.box, axis_deg=imaging.axis_deg)
    return Subtomogram(Volume(data, imaging.voxel_size_angstrom), imaging.wedge)


def simulate_tilt_stack(
    density: Density,
    pose: Pose,
    *,
    imaging: Imaging,
    rng: np.random.Generator,
    place_angstrom: ArrayLike | None = None,
    defocus_per_depth: float = -1.0,
) -> TiltStack:
    """Simulate a particle as 2-D tilt images: projections times the whole CTF, then white noise.

    Noise is added after the CTF here, as electrons are counted after the lens, and the signal-to-noise ratio is that of
    the images with their CTF; the detector's MTF is left out. Image axes are the microscope's x and y at any
    ``axis_deg``.

    Parameters
    ----------
    density, pose, imaging, rng
        As in ``simulate_subtomogram``.
    place_angstrom
        Position of the particle in its tomogram, xyz, from the centre, where ``imaging.ctf`` is that of every tilt.
        Elsewhere each image has its own defocus. None for the centre.
    defocus_per_depth
        Change of underfocus per angstrom along the beam, as in ``gonio.particle.tilt_series.TiltSeries``.

    Returns
    -------
    The images with their CTFs.
    """
    imaging = imaging.of(density)
    poses = tilt_poses(pose, imaging.tilts_deg, axis_deg=imaging.axis_deg)
    rotations = tilt_poses(Pose.identity(), imaging.tilts_deg, axis_deg=imaging.axis_deg).matrix  # (t, 3, 3)
    field = (2 * imaging.box, 2 * imaging.box)
    images = density.projections(poses, shape_yx=field, voxel_size_angstrom=imaging.voxel_size_angstrom)
    ctf = None if imaging.ctf is None else _repeated(imaging.ctf, len(poses))
    if ctf is not None:
        if place_angstrom is not None:
            ctf = ctf.refocused(defocus_per_depth * (rotations[:, 2] @ np.asarray(place_angstrom, dtype=np.float64)))
        frequency = _image_frequencies(field, imaging.voxel_size_angstrom)
        images = apply_transfer(images, ctf.transfer(frequency.reshape(-1, 2)).reshape(-1, *frequency.shape[:2]))
    window = _window(images, (imaging.box, imaging.box))
    noisy = add_noise(window, snr=imaging.snr, box=imaging.box, rng=rng)
    return TiltStack(noisy, rotations[:, :2], imaging.voxel_size_angstrom, ctf=ctf)


def tilt_angles_deg(tilt_min_deg: float, tilt_max_deg: float, *, step_deg: float = 1.0) -> NDArray[np.float64]:
    """Return the tilt angles from first to last, both included, degrees, shape (t,).

    Raises
    ------
    ValueError
        The step is not positive, or the range is not a whole number of steps.
    """
    if not step_deg > 0:
        raise ArgumentError("{} must be positive, got {got!r}", "tilt_step_deg", got=step_deg)
    steps = (tilt_max_deg - tilt_min_deg) / step_deg
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
        raise ArgumentError(
            "{} must be a whole number of steps of {step!r} degrees, got {low!r} to {high!r}",
            "tilt_range_deg",
            step=step_deg,
            low=tilt_min_deg,
            high=tilt_max_deg,
        )
    return np.linspace(tilt_min_deg, tilt_max_deg, round(steps) + 1)


def tilt_poses(pose: Pose, tilts_deg: ArrayLike, *, axis_deg: float) -> Pose:
    """Return the particle's poses in the microscope at all tilts, a batch of t.

    The first two rows of a tilt's rotation are the images' x and y axes in the specimen's frame.
    """
    axis = np.radians(axis_deg)
    rotvec = np.radians(np.asarray(tilts_deg, dtype=np.float64))[:, None] * [np.cos(axis), np.sin(axis), 0.0]
    return Pose(Rotation.from_rotvec(rotvec), np.zeros_like(rotvec)) @ pose


def add_noise(images: NDArray, *, snr: float, box: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add white Gaussian noise of variance ``var(images) / snr`` to noise-free images.

    The variance of the images is taken over all tilts together, within the central ``box`` x ``box`` pixels:
    it does not depend on how wide a field is simulated.
    """
    images = np.asarray(images, dtype=np.float32)
    if np.isinf(snr):
        return images
    sd = np.sqrt(_window(images, (box, box)).var(dtype=np.float64) / snr)
    noise = rng.standard_normal(images.shape, dtype=np.float32)
    noise *= np.float32(sd)
    noise += images
    return noise


def first_zero_per_angstrom(ctf: Ctf) -> float:
    """Return the lowest frequency above zero at which the CTF vanishes, for underfocus without astigmatism.

    Solves ``pi lambda z s - pi Cs lambda^3 s^2 / 2 + chi0 = pi`` for s = k^2, with chi0 the phase of amplitude contrast
    and phase plate; where the phase never reaches pi, solves for phase 0 instead.
    """
    _check_ctf(ctf)
    wavelength = electron_wavelength_angstrom(ctf.voltage_kv)
    linear = wavelength * float(np.asarray(ctf.defocus_u_angstrom))
    quadratic = 0.5e7 * float(np.asarray(ctf.spherical_aberration_mm)) * wavelength**3
    start = np.arcsin(ctf.amplitude_contrast) / np.pi + float(np.asarray(ctf.phase_shift_deg)) / 180.0
    under_root = linear**2 - 4.0 * quadratic * (1.0 - start)
    if under_root >= 0:
        return float(np.sqrt(2.0 * (1.0 - start) / (linear + np.sqrt(under_root))))
    return float(np.sqrt((linear + np.sqrt(linear**2 + 4.0 * quadratic * start)) / (2.0 * quadratic)))


def truncated_ctf(frequency_xy_per_angstrom: NDArray, *, ctf: Ctf) -> NDArray[np.float64]:
    """Return the CTF at frequencies (..., 2), zero beyond its first zero, as in the paper."""
    below = np.linalg.norm(frequency_xy_per_angstrom, axis=-1) < first_zero_per_angstrom(ctf)
    return ctf.transfer(frequency_xy_per_angstrom) * below


def mtf(fraction_of_nyquist: ArrayLike) -> NDArray[np.float64]:
    """Return the MTF of the paper's detector: sin(pi w / 2) / (pi w / 2), w the frequency as a fraction of Nyquist."""
    return np.sinc(0.5 * np.asarray(fraction_of_nyquist, dtype=np.float64))


def apply_transfer(images: NDArray, transfer: NDArray) -> NDArray:
    """Multiply spectra of images (t, y, x) by a transfer (y, x // 2 + 1), or one for each image, in ``rfft2``'s order.

    The result has the dtype of the images.
    """
    spectra = fft.rfft2(images)
    spectra *= transfer.astype(images.dtype)
    return fft.irfft2(spectra, s=images.shape[1:], overwrite_x=True)


def tilt_weights(tilts_deg: ArrayLike) -> NDArray[np.float64]:
    """Return the angle that each tilt represents in back-projection, radians, shape (t,): half the gaps on both sides.

    An end tilt counts its one gap twice, unless both ends show the same view (180 degrees apart) and share it.

    Raises
    ------
    ValueError
        Fewer than two tilts, tilts that do not increase, or a range over 180 degrees.
    """
    tilts = np.radians(np.asarray(tilts_deg, dtype=np.float64))
    gaps = np.diff(tilts)
    if len(gaps) < 1 or gaps.min() <= 0 or np.ptp(tilts) > np.pi + 1e-9:
        raise ValueError(
            f"tilts_deg must be two or more increasing angles within 180 degrees, got {described(tilts_deg)}"
        )
    weights = 0.5 * (np.append(gaps, gaps[-1]) + np.insert(gaps, 0, gaps[0]))
    if np.isclose(np.ptp(tilts), np.pi):
        weights[[0, -1]] *= 0.5
    return weights


def ramp_kernel(distance_px: NDArray) -> NDArray:
    """Return the ramp filter, |k| for |k| <= 1/2, at distances in pixels: sinc(s) / 2 - sinc(s / 2)^2 / 4."""
    return 0.5 * np.sinc(distance_px) - 0.25 * np.sinc(0.5 * distance_px) ** 2


def back_project(images: NDArray, tilts_deg: ArrayLike, *, box: int, axis_deg: float = 90.0) -> NDArray[np.float32]:
    """Back-project images into a box, weighted by a ramp filter.

    Parameters
    ----------
    images
        Shape (t, y, x), y along the tilt axis, x along d(theta); centre pixel ``// 2``. Zero beyond the field.
    tilts_deg
        Increasing, shape (t,).
    box
        Voxels along an edge, n; a voxel has the size of a pixel.
    axis_deg
        Direction of the tilt axis in the xy plane of the box.

    Returns
    -------
    Shape (n, n, n), order (z, y, x). A range of 180 degrees has unit gain: projections summed over voxels along z
    give back the density.
    """
    tilts = tuple(float(tilt) for tilt in np.asarray(tilts_deg, dtype=np.float64))
    if len(tilts) != len(images):
        raise ValueError(f"{len(images)} images need as many tilts_deg, got {len(tilts)}")
    if axis_deg == 90.0 and images.shape[1] >= box:
        return _back_project_by_matrix(images, tilts, box=box)
    return _back_project_by_spline(images, tilts, box=box, axis_deg=axis_deg)


def _back_project_by_matrix(images: NDArray, tilts_deg: tuple[float, ...], *, box: int) -> NDArray[np.float32]:
    # The axis is y, so that rows of the images are rows of the box: one matrix from (tilt, x) to (z, x) serves all.
    rows = _window(images, (box, images.shape[2])).astype(np.float32)  # (t, y, x)
    weights = tuple(tilt_weights(tilts_deg).tolist())
    together = max(1, _MATRIX_ENTRIES // (images.shape[2] * box**2))
    if len(tilts_deg) <= together:
        return _boxes(rows, _kept_ramp_matrix(tilts_deg, weights, images.shape[2], box))
    volume = np.zeros((box, box, box), np.float32)
    for first in range(0, len(tilts_deg), together):
        part = slice(first, first + together)
        volume += _boxes(rows[part], _ramp_matrix(tilts_deg[part], weights[part], images.shape[2], box))
    return volume


def _boxes(rows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    box = rows.shape[1]
    volume = rows.transpose(1, 0, 2).reshape(box, -1) @ matrix  # (y, z x)
    return volume.reshape(box, box, box).transpose(1, 0, 2)  # (z, y, x)


@lru_cache(maxsize=3)
def _kept_ramp_matrix(
    tilts_deg: tuple[float, ...], weights: tuple[float, ...], width: int, box: int
) -> NDArray[np.float32]:
    matrix = _ramp_matrix(tilts_deg, weights, width, box)
    matrix.setflags(write=False)
    return matrix


def _ramp_matrix(tilts_deg: tuple[float, ...], weights: tuple[float, ...], width: int, box: int) -> NDArray[np.float32]:
    # w_i K(u_i(z, x) - j), shape (t width, z x). With s = u - j sines of pi s are those of pi u but for their sign:
    # K(s) = (sin(pi s) - (1 - cos(pi s)) / (pi s)) / (2 pi s), and 1/4 at 0.
    here = np.arange(box) - box // 2
    pixels = np.arange(width) - width // 2
    sign = np.where(pixels % 2, -1.0, 1.0)[:, None]
    matrix = np.empty((len(tilts_deg), width, box * box), dtype=np.float32)
    for rows, tilt, weight in zip(matrix, np.radians(tilts_deg), weights, strict=True):
        u = (here * np.cos(tilt) + here[:, None] * np.sin(tilt)).reshape(-1)  # (z x,)
        sine, cosine = np.sin(np.pi * u), np.cos(np.pi * u)
        angle = np.pi * (u - pixels[:, None])
        near = np.abs(angle) < _NO_DISTANCE
        angle[near] = 1.0
        kernel = (sign * sine - (1.0 - sign * cosine) / angle) / (2.0 * angle)
        kernel[near] = 0.25
        rows[:] = weight * kernel
    return matrix.reshape(-1, box * box)


def _back_project_by_spline(
    images: NDArray, tilts_deg: tuple[float, ...], *, box: int, axis_deg: float
) -> NDArray[np.float32]:
    # For any axis and size: exact filtered images at a fine spacing, with cubic splines between those.
    fine_y, fine_x = (_fine_grid(count) for count in images.shape[1:])
    along = np.sinc(fine_y[:, None] - _pixels(images.shape[1]))  # (fine y, y)
    across = ramp_kernel(fine_x[:, None] - _pixels(images.shape[2]))  # (fine x, x)
    z, y, x = np.meshgrid(*3 * [_pixels(box)], indexing="ij", sparse=True)
    cosine, sine = np.cos(np.radians(axis_deg)), np.sin(np.radians(axis_deg))
    v = np.broadcast_to(x * cosine + y * sine, (box, box, box))  # p.a
    b = x * sine - y * cosine  # p.b, b = a x z
    volume = np.zeros((box, box, box))
    for image, tilt, weight in zip(images, np.radians(tilts_deg), tilt_weights(tilts_deg), strict=True):
        u = b * np.cos(tilt) + z * np.sin(tilt)
        where = SPLINE_OVERSAMPLING * np.stack([v - fine_y[0], u - fine_x[0]])
        volume += weight * map_coordinates(along @ image @ across.T, where, order=3, mode="mirror")
    return volume.astype(np.float32)


def _pixels(count: int) -> NDArray[np.int_]:
    return np.arange(count) - count // 2


def _fine_grid(count: int) -> NDArray[np.float64]:
    return np.arange(count * SPLINE_OVERSAMPLING) / SPLINE_OVERSAMPLING - count // 2


def _window(images: NDArray, shape_yx: tuple[int, int]) -> NDArray:
    # Cut out the central part; the centre pixel stays the centre pixel.
    starts = [have // 2 - want // 2 for have, want in zip(images.shape[1:], shape_yx, strict=True)]
    (y, x), (height, width) = starts, shape_yx
    return images[:, y : y + height, x : x + width]


def _image_frequencies(shape_yx: tuple[int, int], voxel_size_angstrom: float) -> NDArray[np.float64]:
    # Frequencies of rfft2, xy order, 1/angstrom, shape (y, x // 2 + 1, 2).
    y = fft.fftfreq(shape_yx[0], voxel_size_angstrom)
    x = fft.rfftfreq(shape_yx[1], voxel_size_angstrom)
    return np.stack(np.broadcast_arrays(x, y[:, None]), axis=-1)


def _check_ctf(ctf: Ctf) -> None:
    u, v = np.asarray(ctf.defocus_u_angstrom), np.asarray(ctf.defocus_v_angstrom)
    if u.ndim or v.ndim or np.ndim(ctf.phase_shift_deg) or u != v or not u > 0:
        raise ValueError(
            "ctf must hold one positive underfocus (defocus_u_angstrom equal to defocus_v_angstrom, no batch),"
            f" got {ctf.defocus_u_angstrom!r} and {ctf.defocus_v_angstrom!r}"
        )


def _repeated(ctf: Ctf, count: int) -> Ctf:
    # One CTF for every tilt, in the form that TiltStack has.
    defocus = np.full(count, ctf.defocus_u_angstrom)
    return replace(ctf, defocus_u_angstrom=defocus, defocus_v_angstrom=defocus, astigmatism_deg=np.zeros(count))
