"""A tilt series of a scene, and what is cut from it: stacks of tilt images, and subtomograms by back-projection.

Every point of the scene is projected by itself (exactly, but for the pixel), in sheets of depth along the beam, each
with the contrast transfer of its own defocus and the decay of the dose so far. Noise is counted electrons: white plus
a part at low frequency, and as much stronger as the ice that a tilted beam crosses is thicker and lets fewer through.
Subtomograms are the phase-flipped images, weighted by a ramp and by what the dose has left, smeared back through the
box along the beam. The one formula that is shared with gonio is none: transfer and decay are written out here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scene import Scene

SHEET_ANGSTROM = 100.0
# Images reach beyond the slab's own width by this on either side, so that no box is cut at their edge.
MARGIN_ANGSTROM = 500.0
# Mean free path of 300 kV electrons in ice, for all that is scattered out of the image.
FREE_PATH_ANGSTROM = 3000.0
# The part of the noise that is not white: strength at frequency zero, and where it has halved.
COLOUR, COLOUR_PER_ANGSTROM = 2.0, 1.0 / 120.0
BLOB_SD_ANGSTROM = 12.0
# Points are narrower than a pixel: the pixel grid is finer by this factor before the image is cut at its Nyquist.
FINER = 2


@dataclass(frozen=True)
class Camera:
    """Tilts every 3 degrees to +-60, dose-symmetric; lengths in angstrom."""

    pixel_angstrom: float = 10.0
    tilts_deg: np.ndarray = field(default_factory=lambda: np.arange(-60.0, 61.0, 3.0))
    defocus_angstrom: float = 35e3
    amplitude_contrast: float = 0.07
    voltage_kv: float = 300.0
    aberration_mm: float = 2.7
    dose_per_tilt: float = 3.0
    snr: float = 0.05

    @property
    def dose(self) -> np.ndarray:
        """Electrons per square angstrom before each tilt; the lowest tilts come first."""
        order = np.argsort(np.argsort(np.abs(self.tilts_deg) + 1e-3 * (self.tilts_deg < 0), kind="stable"))
        return self.dose_per_tilt * order

    def transfer(self, k: np.ndarray, defocus_angstrom: float) -> np.ndarray:
        """Contrast at frequencies, 1/angstrom; positive density is positive at low ones."""
        volts = 1e3 * self.voltage_kv
        wavelength = 12.2643 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts))
        phase = np.pi * wavelength * k**2 * (defocus_angstrom - 0.5e7 * self.aberration_mm * (wavelength * k) ** 2)
        return np.sin(phase + np.arcsin(self.amplitude_contrast))

    def left(self, k: np.ndarray, dose: float) -> np.ndarray:
        """What a dose has left of the signal (Grant & Grigorieff 2015)."""
        return np.exp(-0.5 * dose / (0.24499 * np.maximum(k, 1e-6) ** -1.6649 + 2.8141))


@dataclass(frozen=True)
class Series:
    """Images (t, y, x) of a scene; y as in the scene, x across the tilt axis from ``MARGIN_ANGSTROM`` before it."""

    camera: Camera
    images: np.ndarray
    size: np.ndarray

    def around(self, point: np.ndarray, box: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (t, box, box) centred on where a point (3,) is seen, and its defocus in each (t,)."""
        camera, stack, defocus = self.camera, [], []
        for image, tilt in zip(self.images, np.radians(camera.tilts_deg), strict=True):
            period = self.size[0] * np.cos(tilt)
            u, _ = _seen(point[None] - [0.5 * self.size[0], 0.0, 0.0], tilt)
            copy = -np.rint(u[0] / period)  # the one that is seen next to the middle of the image
            u, depth = _seen(point[None] + [(copy - 0.5) * self.size[0], 0.0, 0.0], tilt)
            where = np.array([point[1], u[0] + 0.5 * self.size[0] + MARGIN_ANGSTROM]) / camera.pixel_angstrom
            stack.append(_cut(image, where, box))
            defocus.append(camera.defocus_angstrom - depth[0])
        return np.array(stack), np.array(defocus)


def expose(scene: Scene, camera: Camera, *, target: str, rng: np.random.Generator) -> Series:
    """The tilt series of a scene.

    ``snr`` is the power of the target's own image at zero tilt, in a disc of its radius, over that of the noise there.
    """
    wide = scene.size[[1, 0]] + [0.0, 2.0 * MARGIN_ANGSTROM]
    shape = tuple(np.rint(wide / camera.pixel_angstrom).astype(int))
    k = _radii(shape, camera.pixel_angstrom)
    deviation = np.sqrt(_signal_power(scene, camera, target) / camera.snr)
    colour = np.sqrt(1.0 + COLOUR / (1.0 + (k / COLOUR_PER_ANGSTROM) ** 2))
    colour /= np.sqrt(np.mean(colour**2))
    images = []
    for tilt, dose in zip(np.radians(camera.tilts_deg), camera.dose, strict=True):
        signal = camera.left(k, dose) * _projected(scene, camera, tilt, shape, k)
        thicker = scene.size[2] / FREE_PATH_ANGSTROM * (1.0 / np.cos(tilt) - 1.0)
        noise = deviation * np.exp(0.5 * thicker) * np.fft.rfft2(rng.standard_normal(shape))
        images.append(np.fft.irfft2(signal + colour * noise, shape))
    return Series(camera, np.array(images), scene.size)


def back_projected(stack: np.ndarray, defocus: np.ndarray, camera: Camera, box: int) -> np.ndarray:
    """The subtomogram (box, box, box), order (z, y, x), of images (t, n, n) about its centre, n at least 1.5 boxes."""
    n, centre = stack.shape[1], stack.shape[1] // 2
    k = _radii((n, n), camera.pixel_angstrom)
    ramp = np.abs(np.fft.rfftfreq(n))[None, :] + 0.25 / n
    place = np.arange(box) - box // 2
    rows = slice(centre - box // 2, centre - box // 2 + box)
    volume = np.zeros((box, box, box))
    for image, dose, d, tilt in zip(stack, camera.dose, defocus, np.radians(camera.tilts_deg), strict=True):
        weight = ramp * np.sign(camera.transfer(k, d)) * camera.left(k, dose)
        wide = np.zeros((n, 2 * n + 1), complex)  # the transform of an image sampled four times as finely across
        wide[:, : n // 2 + 1] = np.fft.rfft2(image) * weight
        fine = 4.0 * np.fft.irfft2(wide, (n, 4 * n))
        u = 4.0 * (place[None, :] * np.cos(tilt) + place[:, None] * np.sin(tilt) + centre)  # (z, x)
        low = np.floor(u).astype(int)
        part = u - low
        rows_of = fine[rows]
        volume += ((1.0 - part) * rows_of[:, low] + part * rows_of[:, low + 1]).transpose(1, 0, 2)
    return volume / len(stack)


def _seen(points: np.ndarray, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """Of points (a, 3): their place across the tilt axis, which is y, and their depth along the beam."""
    x, z = points[:, 0], points[:, 2]
    return x * np.cos(tilt) + z * np.sin(tilt), z * np.cos(tilt) - x * np.sin(tilt)


def _radii(shape: tuple[int, int], pixel: float) -> np.ndarray:
    y, x = np.fft.fftfreq(shape[0], pixel), np.fft.rfftfreq(shape[1], pixel)
    return np.hypot(y[:, None], x[None, :])


def _projected(scene: Scene, camera: Camera, tilt: float, shape: tuple[int, int], k: np.ndarray) -> np.ndarray:
    """The transform of the scene's projection, with the transfer of each depth."""
    total = np.zeros(k.shape, complex)
    for (points, weights), blur in ((scene.sharp, 0.0), (scene.blobs, BLOB_SD_ANGSTROM)):
        x, y, depth, weights = _copied(points, weights, scene.size, tilt)
        for sheet, image in _deposited(camera.pixel_angstrom, shape, x, y, depth, weights):
            lens = camera.transfer(k, camera.defocus_angstrom - sheet)
            total += lens * np.exp(-2.0 * (np.pi * blur * k) ** 2) * _coarser(np.fft.rfft2(image), shape)
    return total * _unspread(shape) / camera.pixel_angstrom**2


def _copied(points: np.ndarray, weights: np.ndarray, size: np.ndarray, tilt: float) -> tuple[np.ndarray, ...]:
    """Place in the image, depth and weight of points and of their copies: from the side the period in x is shorter."""
    half = 0.5 * size[0] + MARGIN_ANGSTROM
    most = int(np.ceil((half + 0.5 * size[2] * abs(np.sin(tilt))) / (size[0] * np.cos(tilt)) + 0.5))
    parts = []
    for copy in range(-most, most + 1):
        moved = points + np.array([(copy - 0.5) * size[0], 0.0, 0.0])
        u, depth = _seen(moved, tilt)
        inside = np.abs(u) < half - 1e-6
        parts.append(np.stack([u[inside] + half, moved[inside, 1], depth[inside], weights[inside]]))
    return tuple(np.concatenate(parts, axis=1))


def _deposited(
    pixel: float, shape: tuple[int, int], x: np.ndarray, y: np.ndarray, depth: np.ndarray, weights: np.ndarray
) -> Iterator[tuple[float, np.ndarray]]:
    """The depth and the image, twice as fine, of each sheet of points; they are spread linearly over four pixels."""
    rows, columns = FINER * shape[0], FINER * shape[1]
    sheet = np.floor(depth / SHEET_ANGSTROM).astype(int)
    order = np.argsort(sheet, kind="stable")
    x, y, weights, sheet = x[order] * FINER / pixel, y[order] * FINER / pixel, weights[order], sheet[order]
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = x - column, y - row
    for number in np.unique(sheet):
        here = slice(*np.searchsorted(sheet, [number, number + 1]))
        image = np.zeros(rows * columns)
        for j, i in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = (down[here] if j else 1.0 - down[here]) * (right[here] if i else 1.0 - right[here])
            place = (row[here] + j) % rows * columns + (column[here] + i) % columns
            image += np.bincount(place, weights[here] * part, rows * columns)
        yield (number + 0.5) * SHEET_ANGSTROM, image.reshape(rows, columns)


def _coarser(spectrum: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The transform (rfft2) of an image finer by ``FINER``, as that of its pixels; the Nyquist lines are dropped."""
    out = np.zeros((shape[0], shape[1] // 2 + 1), complex)
    top, wide = (shape[0] + 1) // 2, (shape[1] + 1) // 2
    out[:top, :wide] = spectrum[:top, :wide]
    out[-(top - 1) :, :wide] = spectrum[-(top - 1) :, :wide]
    return out


def _unspread(shape: tuple[int, int]) -> np.ndarray:
    """One over what spreading points linearly over finer pixels has taken away."""
    y, x = np.fft.fftfreq(shape[0]) / FINER, np.fft.rfftfreq(shape[1]) / FINER
    return 1.0 / (np.sinc(y)[:, None] * np.sinc(x)[None, :]) ** 2


def _signal_power(scene: Scene, camera: Camera, name: str) -> float:
    """Mean square of the image of one molecule at zero tilt and dose, in a disc of its radius."""
    one = scene.of(name)[0]
    n = 2 * int(np.ceil(np.linalg.norm(one.molecule.points, axis=1).max() / camera.pixel_angstrom)) + 8
    x, y, _ = one.rotation.apply(one.molecule.points).T + 0.5 * n * camera.pixel_angstrom
    ((_, fine),) = _deposited(camera.pixel_angstrom, (n, n), x, y, np.zeros(len(x)), one.molecule.weights)
    k = _radii((n, n), camera.pixel_angstrom)
    lens = camera.transfer(k, camera.defocus_angstrom) * _unspread((n, n)) / camera.pixel_angstrom**2
    image = np.fft.irfft2(lens * _coarser(np.fft.rfft2(fine), (n, n)), (n, n))
    place = np.arange(n) - n // 2
    disc = np.hypot(place[:, None], place[None, :]) <= 0.5 * n - 4
    return float(np.var(image[disc]))


def _cut(image: np.ndarray, where: np.ndarray, box: int) -> np.ndarray:
    """A part (box, box) of an image, which wraps round along y, with ``where`` (y, x) exactly on its centre pixel."""
    margin = 8
    wide = box + 2 * margin
    whole = np.floor(where).astype(int)
    rows, columns = (w + np.arange(wide) - wide // 2 for w in whole)
    part = image[np.ix_(rows % image.shape[0], columns % image.shape[1])]
    y, x = np.fft.fftfreq(wide), np.fft.rfftfreq(wide)
    rest = where - whole
    turn = np.exp(2j * np.pi * (y[:, None] * rest[0] + x[None, :] * rest[1]))
    cut: np.ndarray = np.fft.irfft2(np.fft.rfft2(part) * turn, (wide, wide))[margin:-margin, margin:-margin]
    return cut
