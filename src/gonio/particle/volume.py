"""The particles themselves: volumes, subtomograms and stacks of tilt images.

Owns what counts as a valid particle. Arrays are (z, y, x) float32; the centre voxel is ``n // 2`` on every axis;
density is positive inside the particle. Methods that need Fourier space call ``gonio.fourier``, the one place where a
lower folder knows a higher one.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from gonio.particle.arguments import described
from gonio.particle.ctf import Ctf, image_transfer
from gonio.particle.wedge import NoWedge, SquaredTransferWedge, Wedge

if TYPE_CHECKING:
    from gonio.particle.pose import Pose

MIN_BOX = 8
# Edge of each slice in the representation for notebooks.
NOTEBOOK_PX = 160
# Relative differences of voxel sizes: rounding in headers of single precision, and what is compared without resampling.
ROUNDING, VOXEL_SIZE_TOLERANCE = 1e-5, 1e-3


def same_size(one_angstrom: float, other_angstrom: float, *, tolerance: float = ROUNDING) -> bool:
    """Return whether two voxel sizes are one but for a relative difference, by default that of headers' rounding."""
    return abs(one_angstrom - other_angstrom) <= tolerance * abs(other_angstrom)


def _frozen_float32(array: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    result = np.array(array, dtype=np.float32, order="C")
    if not np.isfinite(result).all():
        bad = int(np.size(result) - np.isfinite(result).sum())
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite; mask or replace them first")
    result.setflags(write=False)
    return result


def _per_tilt(value: ArrayLike, count: int, name: str) -> NDArray[np.float64]:
    values = np.array(value, dtype=np.float64)
    if values.shape not in ((), (1,), (count,)) or not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, one number or one for each of {count} tilts, got {value!r}")
    return np.broadcast_to(values, (count,))


def _check_voxel_size(voxel_size_angstrom: float) -> None:
    if not (np.isfinite(voxel_size_angstrom) and voxel_size_angstrom > 0):
        raise ValueError(f"voxel_size_angstrom must be a positive number, got {voxel_size_angstrom!r}")


@dataclass(frozen=True)
class Volume:
    """A cubic density map.

    Parameters
    ----------
    data
        Shape (n, n, n), order (z, y, x), finite; copied, kept as read-only float32. n >= 8, even or odd.
    voxel_size_angstrom
        Length of a voxel's edge.

    Raises
    ------
    ValueError
        If the data are not a finite cube of at least 8 voxels along an edge, or the voxel size is not positive.
    """

    data: NDArray[np.float32]
    voxel_size_angstrom: float

    def __post_init__(self) -> None:
        shape = np.shape(self.data)
        if len(shape) != 3 or len(set(shape)) != 1:
            raise ValueError(f"a volume must be a cube of shape (n, n, n), got {shape}; crop or pad it first")
        if shape[0] < MIN_BOX:
            raise ValueError(f"a volume needs a box of at least {MIN_BOX} voxels, got {shape[0]}")
        _check_voxel_size(self.voxel_size_angstrom)
        object.__setattr__(self, "data", _frozen_float32(self.data, "the volume"))

    @property
    def box(self) -> int:
        """Voxels along an edge, n."""
        return int(self.data.shape[0])

    @property
    def box_angstrom(self) -> float:
        """Length of an edge; neighbouring Fourier samples are one over this apart."""
        return self.box * self.voxel_size_angstrom

    def moved(self, pose: Pose) -> Volume:
        """Return the map at a pose, ``x_new = R x_old + t`` about the centre voxel, by interpolation in Fourier space.

        What enters the box is the mean of its faces; frequencies beyond the last whole shell are dropped.
        """
        from gonio.fourier.fourier_volume import moved

        # What leaves a box comes in on its other side: so much room that it does not get back to this one.
        reach = 0.0 if pose.rotation.magnitude() == 0.0 else 0.5 * (np.sqrt(3.0) - 1.0) * self.box
        room = self.box + int(np.ceil(reach + np.abs(pose.shift_angstrom).max() / self.voxel_size_angstrom)) + 1
        made = boxed(moved(self.padded(room), pose.matrix, pose.shift_angstrom), self.box)
        return replace(made, data=made.data + np.float32(background(self.data)))  # which ``moved`` leaves out

    def low_passed(self, resolution_angstrom: float) -> Volume:
        """Return the map filtered to a resolution, with a cosine edge two shells wide."""
        from gonio.fourier.transform import low_passed

        return low_passed(self, resolution_angstrom=resolution_angstrom)

    def resampled(self, voxel_size_angstrom: float, *, box: int | None = None) -> Volume:
        """Return the map in voxels of another size about its centre voxel, as ``gonio.fourier.resampling.resampled``.

        Without a box the result is as long as the map, to an even number of voxels.
        """
        from gonio.fourier.resampling import resampled

        return resampled(self, voxel_size_angstrom, box=box)

    def cropped(self, box: int) -> Volume:
        """Return the middle of the map, a box of fewer voxels about the centre voxel."""
        if not MIN_BOX <= box <= self.box:
            raise ValueError(f"box must lie between {MIN_BOX} and {self.box} voxels to crop, got {box!r}")
        return boxed(self, box)

    def padded(self, box: int) -> Volume:
        """Return the map in a box of more voxels about the centre voxel, in the mean of its faces."""
        if box < self.box:
            raise ValueError(f"box must be at least {self.box} voxels to pad, got {box!r}")
        return boxed(self, box, outside=background(self.data))

    def mirrored(self) -> Volume:
        """Return the map of the other hand: mirrored in x, through the centre voxel."""
        return mirrored_volume(self)

    def inverted(self) -> Volume:
        """Return the map of the other contrast."""
        return replace(self, data=-self.data)

    def mask(
        self,
        *,
        threshold: float | None = None,
        enclosed_angstrom3: float | None = None,
        mass_kda: float | None = None,
        resolution_angstrom: float | None = None,
        wider_angstrom: float | None = None,
        edge_angstrom: float | None = None,
        largest: bool | None = None,
    ) -> Volume:
        """Return a mask of the density, 0 to 1, with a soft edge: ``gonio.soft_mask``."""
        from gonio.fourier.masks import soft_mask

        return soft_mask(
            self,
            threshold=threshold,
            enclosed_angstrom3=enclosed_angstrom3,
            mass_kda=mass_kda,
            resolution_angstrom=resolution_angstrom,
            wider_angstrom=wider_angstrom,
            edge_angstrom=edge_angstrom,
            largest=largest,
        )

    def __repr__(self) -> str:
        return f"Volume({self.box}^3 voxels of {self.voxel_size_angstrom:g} angstrom)"

    def _repr_html_(self) -> str:
        """Return a picture of the three central slices for notebooks."""
        from matplotlib.image import imsave  # in notebooks alone

        middle = self.box // 2
        planes = (self.data[middle], self.data[:, middle], self.data[:, :, middle])
        low, high = np.percentile(self.data, [0.1, 99.9])
        picture = BytesIO()
        imsave(picture, np.hstack(planes), cmap="gray", vmin=low, vmax=high, origin="lower", format="png")
        source = b64encode(picture.getvalue()).decode()
        size = f'width="{3 * NOTEBOOK_PX}" height="{NOTEBOOK_PX}" style="image-rendering: pixelated"'
        text = f"{self!r}; central slices: y over x, z over x, z over y"
        return f'<img {size} alt="{text}" src="data:image/png;base64,{source}"><br><small>{text}</small>'


@dataclass(frozen=True)
class Subtomogram:
    """A volume and the wedge that states which of its frequencies were measured.

    Parameters
    ----------
    volume
        The density; must not be constant.
    wedge
        Which frequencies were measured; ``NoWedge()`` when nothing is missing.
    normal_xyz
        Direction of a known axis of the particle (a membrane normal) in the volume's frame, or None.
        Normalised on construction.
    """

    volume: Volume
    wedge: Wedge = field(default_factory=NoWedge)
    normal_xyz: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.wedge, Wedge):
            raise TypeError(
                f"wedge must be one of gonio's wedges, such as SingleAxisWedge(-60, 60), got {described(self.wedge)}"
            )
        if self.volume.data.min() == self.volume.data.max():
            raise ValueError("the volume is constant: there is nothing in it to align")
        sums = self.premultiplied
        if sums is not None and sums.weights.shape != self.volume.data.shape:
            problem = f"a volume of {self.box} voxels needs squared transfers of as many, got {len(sums.weights)}"
            raise ValueError(problem)
        object.__setattr__(self, "normal_xyz", unit_normal(self.normal_xyz))

    def _repr_html_(self) -> str:
        return f"{self.volume._repr_html_()}<p>{self.wedge!r}</p>"

    @property
    def premultiplied(self) -> SquaredTransferWedge | None:
        """Sums of squared transfers of a pseudo-subtomogram; None for any other volume."""
        return self.wedge if isinstance(self.wedge, SquaredTransferWedge) else None

    @property
    def box(self) -> int:
        """Voxels along an edge."""
        return self.volume.box

    @property
    def voxel_size_angstrom(self) -> float:
        """Voxel size of the volume."""
        return self.volume.voxel_size_angstrom


def premultiplied(volume: Volume, transfer: NDArray[np.float32]) -> Subtomogram:
    """Return a volume C G + white noise multiplied by its transfer C: a pseudo-subtomogram C^2 G of one term.

    Parameters
    ----------
    volume
        Box of n voxels.
    transfer
        C on the Fourier grid, of any sign, shape (n, n, n), order (z, y, x), zero frequency at ``n // 2``.
    """
    signed = _frozen_float32(transfer, "the transfer")
    if signed.shape != volume.data.shape:
        raise ValueError(f"a volume of {volume.box} voxels needs a transfer of as many, got shape {signed.shape}")
    data = fft.ifftn(fft.fftn(volume.data) * fft.ifftshift(signed)).real
    return Subtomogram(replace(volume, data=data), SquaredTransferWedge(signed**2, volume.voxel_size_angstrom))


@dataclass(frozen=True)
class TiltStack:
    """One particle as t tilt images, with projection geometry and contrast transfer.

    An image at tilt i is the projection of the particle along the third row of its projection matrix; its sample at
    image frequency (k_x, k_y) is the particle's at ``k_x P[i, 0] + k_y P[i, 1]`` times the transfer.

    Parameters
    ----------
    images
        Shape (t, n, n), order (tilt, y, x), centre pixel ``n // 2``. Images of one value, such as all zeros, are
        excluded tilts.
    projections_xyz
        P, shape (t, 2, 3): rows are the image's x and y axes in the particle's (tomogram) frame.
    voxel_size_angstrom
        Pixel size.
    ctf
        Contrast transfer of the t images, or None when there is none to correct.
    ctf_premultiplied
        True where the images were already multiplied by their transfer (CTF, scale and dose decay), as RELION and
        WarpTools do.
    dose
        Accumulated exposure before each image, electrons per square angstrom, shape (t,), or None.
    scale
        Relative strength of each image (for instance cosine of the tilt), shape (t,), or None.
    normal_xyz
        Direction of a known axis of the particle in the tomogram frame, or None.
    bfactor_per_dose
        B factor by which dose decays, square angstrom per electron per square angstrom; 0 for the measured decay.
    """

    images: NDArray[np.float32]
    projections_xyz: NDArray[np.float64]
    voxel_size_angstrom: float
    ctf: Ctf | None = None
    ctf_premultiplied: bool = False
    dose: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None
    normal_xyz: NDArray[np.float64] | None = None
    bfactor_per_dose: float = 0.0

    def __post_init__(self) -> None:
        shape = np.shape(self.images)
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] < MIN_BOX or shape[0] < 1:
            raise ValueError(f"images must have shape (tilts, n, n) with n >= {MIN_BOX}, got {shape}")
        _check_voxel_size(self.voxel_size_angstrom)
        images = _frozen_float32(self.images, "the tilt stack")
        projections = np.array(self.projections_xyz, dtype=np.float64)
        if projections.shape != (shape[0], 2, 3):
            raise ValueError(f"{shape[0]} images need projections of shape {(shape[0], 2, 3)}, got {projections.shape}")
        if not np.isfinite(projections).all():
            raise ValueError("projections_xyz holds values that are NaN or infinite; exclude those tilts first")
        _check_orthonormal(projections)
        if self.ctf is not None and np.shape(self.ctf.defocus_u_angstrom) not in ((), shape[:1]):
            count = np.size(self.ctf.defocus_u_angstrom)
            raise ValueError(f"{shape[0]} images need a ctf of one image or of {shape[0]}, got one of {count}")
        if not _varies(images).any():
            raise ValueError("every tilt image is zero or constant: there is nothing to align")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "projections_xyz", projections)
        for name in ("dose", "scale"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _per_tilt(value, shape[0], name))
        object.__setattr__(self, "normal_xyz", unit_normal(self.normal_xyz))

    def __repr__(self) -> str:
        known = [name for name in ("ctf", "dose", "scale", "normal_xyz") if getattr(self, name) is not None]
        more = f", with {', '.join(known)}" if known else ""
        size = f"{len(self.images)} images of {self.box}^2 pixels of {self.voxel_size_angstrom:g} angstrom"
        return f"TiltStack({size}{more})"

    @property
    def box(self) -> int:
        """Pixels along an edge."""
        return int(self.images.shape[1])

    def transfer(self, frequency_xy_per_angstrom: ArrayLike) -> NDArray[np.float64]:
        """Return CTF times scale times decay with dose of the t images at frequencies (s, 2), shape (t, s)."""
        transfer = image_transfer(
            frequency_xy_per_angstrom,
            self.ctf,
            scale=self.scale,
            dose=self.dose,
            bfactor_per_dose=self.bfactor_per_dose,
        )
        return np.broadcast_to(transfer, (len(self.images), transfer.shape[-1]))

    @property
    def used(self) -> NDArray[np.bool_]:
        """Mask of the tilts with an image, shape (t,): neither constant nor of scale zero."""
        used = _varies(self.images)
        return used if self.scale is None else used & (self.scale > 0)


Particle = Subtomogram | TiltStack


def _varies(images: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return a mask of the images (t, n, n) that hold more than one value, shape (t,)."""
    return np.asarray((images != images[:, :1, :1]).any(axis=(1, 2)))


# Rows of a projection may differ from unit length and right angles by this much; more is a magnification or a mistake.
PROJECTION_TOLERANCE = 0.02


def _check_orthonormal(projections_xyz: NDArray[np.float64]) -> None:
    products = projections_xyz @ np.swapaxes(projections_xyz, 1, 2)  # (t, 2, 2)
    wrong = np.flatnonzero(np.abs(products - np.eye(2)).max(axis=(1, 2)) > PROJECTION_TOLERANCE)
    if len(wrong):
        raise ValueError(
            f"the rows of projections_xyz must be of length 1 and at right angles, those of tilt {wrong[0]} are not; "
            "put magnification into the pixel size"
        )


def unit_normal(normal_xyz: NDArray[np.floating] | None) -> NDArray[np.float64] | None:
    """Return the direction as a unit vector, or None for None."""
    if normal_xyz is None:
        return None
    normal = np.array(normal_xyz, dtype=np.float64)
    length = np.linalg.norm(normal)
    if normal.shape != (3,) or not np.isfinite(length) or length == 0:
        raise ValueError(f"normal_xyz must be three finite numbers that are not all zero, got {normal_xyz!r}")
    return normal / length


def soft_sphere(box: int, *, radius_px: float, edge_px: float, dimensions: int = 3) -> NDArray[np.float32]:
    """Return a mask (n, n, n): 1 within ``radius_px`` of the centre voxel, a cosine falling to 0 over ``edge_px``.

    In two ``dimensions`` it is a circle, (n, n).
    """
    square = (np.arange(box) - box // 2) ** 2
    distance = np.sqrt(sum(np.ix_(*dimensions * [square])))
    outside = np.clip((distance - radius_px) / max(edge_px, 1e-6), 0.0, 1.0)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * outside), dtype=np.float32)


# Width of a mask's soft edge, as a fraction of its diameter.
MASK_EDGE = 0.125


def masked_volume(volume: Volume, diameter_angstrom: float) -> Volume:
    """Return the volume within a soft sphere around the box centre, whose edge falls over an eighth of its diameter.

    The mean under the mask is subtracted first, so that the mask itself leaves no edge.

    Raises
    ------
    ValueError
        If the diameter is not positive.
    """
    sphere = sphere_of(volume.box, volume.voxel_size_angstrom, diameter_angstrom)
    return replace(volume, data=(volume.data - mean_within(volume.data, sphere)) * sphere)


def masked(particle: Particle, diameter_angstrom: float) -> Particle:
    """Return a subtomogram masked by ``masked_volume``, or a tilt stack with every image masked by such a circle."""
    if isinstance(particle, Subtomogram):
        return replace(particle, volume=masked_volume(particle.volume, diameter_angstrom))
    circle = circle_of(particle.box, particle.voxel_size_angstrom, diameter_angstrom)
    means = np.array([mean_within(image, circle) for image in particle.images])
    kept = (particle.images - means[:, None, None]) * circle
    return replace(particle, images=kept * particle.used[:, None, None])


def mean_within(data: NDArray[np.floating], weight: NDArray[np.floating]) -> np.float32:
    """Return the mean of values weighted by a mask of their shape, or 0 for a mask of zeros.

    Sums are in double precision, because values of cameras are far from zero.
    """
    total = weight.sum(dtype=np.float64)
    return np.float32(np.multiply(data, weight, dtype=np.float64).sum() / total if total > 0 else 0.0)


def mean_free_volume(volume: Volume) -> Volume:
    """Return the volume without its mean, which no comparison uses."""
    return replace(volume, data=volume.data - np.float32(volume.data.mean(dtype=np.float64)))


def sphere_of(box: int, voxel_size_angstrom: float, diameter_angstrom: float) -> NDArray[np.float32]:
    """Return the soft sphere of ``masked_volume``, 0 to 1, (n, n, n)."""
    return _mask_of(box, voxel_size_angstrom, diameter_angstrom, dimensions=3)


@lru_cache(maxsize=8)
def circle_of(box: int, voxel_size_angstrom: float, diameter_angstrom: float) -> NDArray[np.float32]:
    """Return the middle section of ``sphere_of``, (n, n), which masks images; the same array for all particles."""
    circle = _mask_of(box, voxel_size_angstrom, diameter_angstrom, dimensions=2)
    circle.setflags(write=False)
    return circle


def _mask_of(box: int, voxel_size_angstrom: float, diameter_angstrom: float, *, dimensions: int) -> NDArray[np.float32]:
    if not diameter_angstrom > 0:
        raise ValueError(f"the mask's diameter must be positive, got {diameter_angstrom!r} angstrom")
    diameter = diameter_angstrom / voxel_size_angstrom
    return soft_sphere(box, radius_px=0.5 * diameter, edge_px=MASK_EDGE * diameter, dimensions=dimensions)


def correlation(first: Volume, second: Volume, *, mask: NDArray[np.floating | np.bool_] | None = None) -> float:
    """Return the Pearson correlation of two volumes of one box, over all voxels or weighted by a mask (n, n, n)."""
    if first.box != second.box:
        raise ValueError(f"the two volumes differ in box: {first.box} and {second.box} voxels")
    weight = np.ones(first.data.shape) if mask is None else np.asarray(mask, dtype=np.float64)
    a, b = (v.data - np.average(v.data, weights=weight) for v in (first, second))
    return float((weight * a * b).sum() / np.sqrt((weight * a**2).sum() * (weight * b**2).sum()))


def mirrored_volume(volume: Volume, *, axis: int = 2) -> Volume:
    """Return the volume mirrored through the centre voxel along one of the axes zyx, by default x: the other hand."""
    return replace(volume, data=np.roll(np.flip(volume.data, axis), 1 if volume.box % 2 == 0 else 0, axis=axis))


def background(data: NDArray[np.floating]) -> float:
    """Return the mean over the faces of the box.

    Unless it is subtracted, the box itself is an object with edges that rotates with the map.
    """
    inner = data[1:-1, 1:-1, 1:-1]
    return float((data.sum(dtype=np.float64) - inner.sum(dtype=np.float64)) / (data.size - inner.size))


def boxed(volume: Volume, box: int, *, outside: float | None = None) -> Volume:
    """Crop or pad to another box about the centre voxel, padding with a value, or with the mean."""
    if volume.box == box:
        return volume
    if outside is None:
        outside = float(volume.data.mean(dtype=np.float64)) if box > volume.box else 0.0
    return Volume(in_cube(volume.data, box, outside), volume.voxel_size_angstrom)


def in_cube(data: NDArray[np.float32], box: int, outside: float) -> NDArray[np.float32]:
    """Crop or pad an array (z, y, x) of any shape to a cube, voxel ``n // 2`` of each axis to that of the cube."""
    cube = np.full((box,) * 3, outside, dtype=np.float32)
    low = [min(box // 2, n // 2) for n in data.shape]
    high = [min(box - box // 2, n - n // 2) for n in data.shape]
    into = tuple(slice(box // 2 - a, box // 2 + b) for a, b in zip(low, high, strict=True))
    out_of = tuple(slice(n // 2 - a, n // 2 + b) for n, a, b in zip(data.shape, low, high, strict=True))
    cube[into] = data[out_of]
    return cube
