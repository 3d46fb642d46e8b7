"""The paper's definitions, slow and literal: rotate the volume, mask its transform, subtract.

Written from Xu & Alber 2012 (doi:10.1186/1471-2105-13-S10-S4), equation by equation, without a line of gonio, so that
agreement with gonio means something. Only volumes small enough for a test (n <= 32).

    arrays (z, y, x), centre voxel n // 2; vectors xyz in voxels from that centre; frequencies xyz as index triples k
    F f (k) = sum_x f(x) exp(-2 pi i k.(x - c) / n),  in the order of numpy.fft
    M_f, M_g: functions of an array (..., 3) of frequencies that answer "was this measured?"

The only approximation is the interpolation in ``moved``. On ``Blobs`` (Gaussians of standard deviation 1.4 to 1.8
voxels that fade inside the box) it is wrong by 1e-5 of the maximum, and that much only because sampled Gaussians are
not quite band limited; ``MOVED_ERROR`` is the bound, ``test_oracle.py`` measures it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

Mask = Callable[[NDArray], NDArray]

MOVED_ERROR = 2e-5  # bound on |moved - exact| / max; measured 1.0e-5 in an even, 0.8e-5 in an odd box of 24 or 25


def everything(frequency_xyz: NDArray) -> NDArray:
    """No wedge: all frequencies measured."""
    return np.ones(frequency_xyz.shape[:-1], dtype=bool)


def paper_wedge(theta_deg: float) -> Mask:
    """M = [ |k_3| <= |k_1| tan(theta) ], tilting from -theta to theta."""
    slope = np.tan(np.radians(theta_deg))
    return lambda k: np.abs(k[..., 2]) <= np.abs(k[..., 0]) * slope + 1e-9


def positions_xyz(n: int) -> NDArray:
    """x - c of every voxel, shape (n, n, n, 3)."""
    z, y, x = np.indices((n, n, n)) - n // 2
    return np.stack([x, y, z], axis=-1).astype(float)


def frequencies_xyz(n: int) -> NDArray:
    """k of every Fourier sample in the order of numpy.fft, shape (n, n, n, 3); Nyquist of an even box is negative."""
    k = np.rint(np.fft.fftfreq(n) * n)
    z, y, x = np.meshgrid(k, k, k, indexing="ij")
    return np.stack([x, y, z], axis=-1)


def fft_centred(v: NDArray) -> NDArray:
    """F v with the phase origin at the centre voxel."""
    return np.fft.fftn(np.fft.ifftshift(v))


def ifft_centred(spectrum: NDArray) -> NDArray:
    """F^-1, back to an array with its centre at n // 2; complex."""
    return np.fft.fftshift(np.fft.ifftn(spectrum))


def dft_direct(v: NDArray) -> NDArray:
    """F v as the sum that defines it."""
    n = len(v)
    phase = frequencies_xyz(n).reshape(-1, 3) @ positions_xyz(n).reshape(-1, 3).T  # (k, x)
    return (np.exp(-2j * np.pi * phase / n) @ v.ravel()).reshape(v.shape)


def oversampled(v: NDArray, factor: int) -> NDArray:
    """The band-limited function through the voxels, on a grid ``factor`` times finer; centre at its own n // 2."""
    spectrum = np.fft.fftshift(fft_centred(v))
    for axis in range(3):
        if v.shape[axis] % 2 == 0:  # Nyquist stands for both signs: half of it goes to each
            nyquist = 0.5 * np.take(spectrum, [0], axis=axis)
            inner = np.take(spectrum, range(1, v.shape[axis]), axis=axis)
            spectrum = np.concatenate([nyquist, inner, nyquist], axis=axis)
    size, fine = spectrum.shape[0], factor * v.shape[0]
    before = fine // 2 - size // 2
    spectrum = np.pad(spectrum, (before, fine - size - before))
    return ifft_centred(np.fft.ifftshift(spectrum)).real * factor**3


def moved(g: NDArray, R: NDArray, a: NDArray, *, oversampling: int = 4) -> NDArray:
    """tau_a Lambda_R g, that is x -> g(R^-1 (x - a)), zero where that falls outside the box."""
    n = len(g)
    source = (positions_xyz(n) - a) @ R  # R^-1 = R^T
    fine = oversampled(g, oversampling)
    index = oversampling * source[..., ::-1] + len(fine) // 2
    values = map_coordinates(fine, np.moveaxis(index, -1, 0), order=5, mode="grid-wrap")
    inside = ((source + n // 2 >= -0.5) & (source + n // 2 < n - 0.5)).all(axis=-1)
    return np.where(inside, values, 0.0)


def overlap(M_f: Mask, M_g: Mask, R: NDArray, n: int, limit: float) -> NDArray:
    """M_f (Lambda_R M_g) within 0 < |k| <= limit: the set Omega, as a mask in the order of numpy.fft."""
    k = frequencies_xyz(n)
    length = np.linalg.norm(k, axis=-1)
    return M_f(k) & M_g(k @ R) & (length > 0) & (length <= limit)


def constrained(v: NDArray, omega: NDArray) -> NDArray:
    """Eqs. 1 and 2: the real part of F^-1 [ F v restricted to Omega ]."""
    return ifft_centred(fft_centred(v) * omega).real


def normalised(v: NDArray) -> NDArray:
    """N v: mean removed, unit norm."""
    centred = v - v.mean()
    return centred / np.sqrt((centred**2).sum())


def rcs(f: NDArray, g: NDArray, R: NDArray, a: NDArray, M_f: Mask, M_g: Mask, limit: float) -> float:
    """Eqs. 1-6: the squared distance of the two normalised constrained volumes, d = 2 - 2c."""
    omega = overlap(M_f, M_g, R, len(f), limit)
    return float(((normalised(constrained(f, omega)) - normalised(constrained(moved(g, R, a), omega))) ** 2).sum())


def fcs(f: NDArray, g: NDArray, R: NDArray, a: NDArray, M_f: Mask, M_g: Mask, limit: float) -> float:
    """Eqs. 13 and 16: the mean over Omega of |F f - F tau_a Lambda_R g|^2."""
    omega = overlap(M_f, M_g, R, len(f), limit)
    return float((np.abs(fft_centred(f) - fft_centred(moved(g, R, a)))[omega] ** 2).mean())


def log_density(u: NDArray, v: NDArray, rho: NDArray) -> NDArray:
    """ln p of two complex Gaussians of unit power and correlation rho, from their covariance matrix."""
    rho = np.broadcast_to(rho, u.shape)
    covariance = np.stack([np.stack([np.ones_like(rho), rho], -1), np.stack([rho, np.ones_like(rho)], -1)], -2)
    pair = np.stack([u, v], axis=-1)
    form = np.einsum("...i,...ij,...j", pair.conj(), np.linalg.inv(covariance), pair).real
    return -2 * np.log(np.pi) - np.log(np.linalg.det(covariance)) - form


def shell_mean(v: NDArray, limit: float) -> NDArray:
    """Mean of |F v|^2 over the samples with round(|k|) = 0, 1, ... up to the limit."""
    shell = np.rint(np.linalg.norm(frequencies_xyz(len(v)), axis=-1))
    power = np.abs(fft_centred(v)) ** 2
    return np.array([power[shell == s].mean() for s in range(round(limit) + 1)])


@dataclass(frozen=True)
class Shells:
    """What is expected of a pair in shells 0, 1, ...: correlation, that of a wrong pose, power of f and of g."""

    rho: NDArray
    null: NDArray
    f_power: NDArray
    g_power: NDArray

    def at(self, k: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """The four at frequencies (..., 3), linear between the shells."""
        length = np.linalg.norm(k, axis=-1)
        values = (self.rho, self.null, self.f_power, self.g_power)
        return tuple(np.interp(length, np.arange(len(v)), v) for v in values)


def log_likelihood_ratio(
    f: NDArray, g: NDArray, R: NDArray, a: NDArray, M_f: Mask, M_g: Mask, limit: float, shells: Shells
) -> float:
    """ln of how much more probable the samples are at the right pose than at a wrong one, over half of Omega.

    Half, because a sample and its Friedel mate are one observation.
    """
    omega = overlap(M_f, M_g, R, len(f), limit)
    rho, null, f_power, g_power = (v[omega] for v in shells.at(frequencies_xyz(len(f))))
    u = fft_centred(f)[omega] / np.sqrt(f_power)
    v = fft_centred(moved(g, R, a))[omega] / np.sqrt(g_power)
    return 0.5 * float((log_density(u, v, rho) - log_density(u, v, null)).sum())


def cross_weight(k: NDArray, shells: Shells) -> NDArray:
    """What Re(f conj g) is multiplied by in half of the log likelihood ratio, at frequencies (..., 3)."""
    rho, null, f_power, g_power = shells.at(k)
    return (rho / (1 - rho**2) - null / (1 - null**2)) / np.sqrt(f_power * g_power)


def likelihood(
    f: NDArray, g: NDArray, R: NDArray, a: NDArray, M_f: Mask, M_g: Mask, limit: float, shells: Shells
) -> float:
    """Minus the log likelihood ratio over the fourth root of |Omega|, its samples counted by their cross weights.

    The weights have a mean of one over what the target measured.
    """
    ball = overlap(M_f, everything, R, len(f), limit)
    omega = overlap(M_f, M_g, R, len(f), limit)
    weight = cross_weight(frequencies_xyz(len(f)), shells)
    count = 0.5 * weight[omega].sum() / weight[ball].mean()
    return -log_likelihood_ratio(f, g, R, a, M_f, M_g, limit, shells) / count**0.25


def dft_matrix(n: int) -> NDArray:
    """F as a matrix (n^3, n^3) from voxels to samples, both in C order; only for tiny n."""
    phase = frequencies_xyz(n).reshape(-1, 3) @ positions_xyz(n).reshape(-1, 3).T
    return np.exp(-2j * np.pi * phase / n)


def wedge_and_cut(n: int, M: Mask) -> NDArray:
    """What a box shows of a density in it, a matrix (n^3, n^3): filtered by M in a box twice as wide, and cut."""
    wide = 2 * n
    k = frequencies_xyz(wide)
    kernel = ifft_centred(M(k).astype(complex)).real  # of the filter, at offsets from its centre
    z, y, x = np.indices((n, n, n)).reshape(3, -1)
    offset = [(a[:, None] - a[None, :] + wide // 2) % wide for a in (z, y, x)]
    return kernel[tuple(offset)]


def posterior_mean(f: NDArray, *, envelope: NDArray, signal: NDArray, noise: NDArray, M: Mask, limit: float) -> NDArray:
    """The mean of s given f = A s + n, from the covariance of s and that of the samples of f that were measured.

    s = envelope L v with v white and L^2 the power ``signal``, n has the power ``noise``: both (n, n, n) in the order
    of numpy.fft; A is ``wedge_and_cut``. Dense: f of at most 10 voxels a side.
    """
    n = len(f)
    k = frequencies_xyz(n).reshape(-1, 3)
    length = np.linalg.norm(k, axis=-1)
    F = dft_matrix(n)
    root = (F.conj().T * np.sqrt(signal.ravel())) @ F / n**3  # L
    G = envelope.reshape(-1, 1) * root.real
    covariance = G @ G.T
    measured = M(k) & (length > 0) & (length <= limit)
    B = F[measured] @ wedge_and_cut(n, M)
    observed = B @ covariance @ B.conj().T + np.diag(noise.ravel()[measured] * n**3)
    return (covariance @ B.conj().T @ np.linalg.solve(observed, F[measured] @ f.ravel())).real.reshape(f.shape)


def shifted(v: NDArray, a: tuple[int, int, int]) -> NDArray:
    """tau_a v for whole voxels a (xyz), zeros moving in at the edge."""
    out = np.zeros_like(v)
    to = tuple(slice(max(s, 0), len(v) + min(s, 0)) for s in a[::-1])
    of = tuple(slice(max(-s, 0), len(v) + min(-s, 0)) for s in a[::-1])
    out[to] = v[of]
    return out


def best_shift(
    f: NDArray, g: NDArray, R: NDArray, M_f: Mask, M_g: Mask, limit: float, *, max_shift: int
) -> tuple[tuple[int, int, int], float]:
    """The whole-voxel shift (xyz) of lowest RCS at a given rotation, by trying all; and that RCS."""
    omega = overlap(M_f, M_g, R, len(f), limit)
    turned = moved(g, R, np.zeros(3))
    target = normalised(constrained(f, omega))
    shifts = list(product(range(-max_shift, max_shift + 1), repeat=3))
    scores = [((target - normalised(constrained(shifted(turned, a), omega))) ** 2).sum() for a in shifts]
    best = int(np.argmin(scores))
    return shifts[best], float(scores[best])


def draw_probabilities(d: NDArray, t: float) -> NDArray:
    """Eqs. 10 and 11: the probability that each candidate is drawn, from its dissimilarity."""
    order = np.argsort(-np.asarray(d, dtype=float), kind="stable")  # d_1 >= ... >= d_m
    p = [1.0]
    for previous, this in pairwise(order):
        p.append(p[-1] * max(10.0 ** (t / (len(d) - 1)), d[previous] / d[this]))
    probability = np.empty(len(d))
    probability[order] = np.array(p) / sum(p)
    return probability


def candidate_distance(R_j: NDArray, a_j: NDArray, R_k: NDArray, a_k: NDArray) -> float:
    """Eq. 12: || R_j^-1 (I - (a_j, a_j, a_j)) - R_k^-1 (I - (a_k, a_k, a_k)) ||_F, the a being columns."""
    of_j = np.linalg.inv(R_j) @ (np.eye(3) - np.column_stack([a_j, a_j, a_j]))
    of_k = np.linalg.inv(R_k) @ (np.eye(3) - np.column_stack([a_k, a_k, a_k]))
    return float(np.linalg.norm(of_j - of_k, "fro"))


@dataclass(frozen=True)
class Blobs:
    """A sum of anisotropic Gaussians: an object that can be turned and shifted without interpolating.

    ``heights`` (b,), ``centres`` (b, 3) and ``covariances`` (b, 3, 3) are in voxels from the centre voxel, xyz.
    """

    heights: NDArray
    centres: NDArray
    covariances: NDArray

    @staticmethod
    def random(seed: int = 7, count: int = 4) -> Blobs:
        """``count`` unlike Gaussians that fade well inside a box of 24: without symmetry or mirror image."""
        rng = np.random.default_rng(seed)
        axes = Rotation.random(count, rng=rng).as_matrix()
        sigmas = rng.uniform(1.4, 1.8, (count, 3))
        directions = rng.normal(size=(count, 3))
        centres = 3.0 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        covariances = axes @ (sigmas[:, :, None] ** 2 * np.swapaxes(axes, 1, 2))
        return Blobs(rng.uniform(0.6, 1.4, count), centres, covariances)

    def moved(self, R: NDArray, a: NDArray) -> Blobs:
        """tau_a Lambda_R of this object, exactly."""
        return Blobs(self.heights, self.centres @ R.T + a, R @ self.covariances @ R.T)

    def volume(self, n: int) -> NDArray:
        """Sampled in a box of n voxels, shape (n, n, n)."""
        x = positions_xyz(n)
        parts = []
        for height, centre, covariance in zip(self.heights, self.centres, self.covariances, strict=True):
            offset = x - centre
            square = np.einsum("...i,ij,...j", offset, np.linalg.inv(covariance), offset)
            parts.append(height * np.exp(-0.5 * square))
        return np.sum(parts, axis=0)

    def transform(self, frequency_xyz: NDArray) -> NDArray:
        """Continuous Fourier transform at frequencies (..., 3) in cycles per voxel."""
        total = np.zeros(frequency_xyz.shape[:-1], dtype=complex)
        for height, centre, covariance in zip(self.heights, self.centres, self.covariances, strict=True):
            decay = np.einsum("...i,ij,...j", frequency_xyz, covariance, frequency_xyz)
            volume = height * np.sqrt((2 * np.pi) ** 3 * np.linalg.det(covariance))
            total += volume * np.exp(-2 * np.pi**2 * decay - 2j * np.pi * frequency_xyz @ centre)
        return total
