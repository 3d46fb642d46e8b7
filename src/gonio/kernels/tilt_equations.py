"""Normal equations of the images of one particle by what moves them: one pass over the samples of each slice.

A sample k of an image shows (docs/theory.md eq. 40)

    m = s g,    g = A sin(2 pi chi(k)) exp(-i p.k) G(M^T k),    chi = l z(k) |k|^2 + q |k|^4 + c
    z(k) = z + a_1 cos(2 phi) + a_2 sin(2 phi)

with M the rotation from the reference to the image's frame, p the shift as a phase, A the envelope, z the underfocus,
s the contrast. The derivatives of m, in this order, are by

    0-2  the rotation nu, M <- exp([nu]x) M     3-4  the phase p      5  the contrast s
    6    the underfocus z                       7-8  astigmatism a_1, a_2

and ``out`` holds for each image, over samples of weight w, J^T J (upper triangle by rows), J^T r with r = F - m, and
|r|^2. Nothing here knows what these parameters are in terms of tilts and poses (``gonio.comparison.tilt_images``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray
from numpy.typing import NDArray

from gonio.kernels.compiled import compiled, inlined
from gonio.kernels.sample import circle
from gonio.kernels.sample_sums import derivatives, reference_slopes
from gonio.kernels.vector import BLOCK, scratch_float, scratch_int

# All parameters of an image, and those without astigmatism.
PARAMETERS, WITHOUT_ASTIGMATISM = 9, 7
TURN = np.float32(2.0 * np.pi)


class Images(NamedTuple):
    """The samples of t images of one particle, at the same n frequencies, sorted by their distance from zero.

    ``frequency`` (5, n): k_x and k_y in units of one over the box, |k|^2, cos and sin of 2 phi; ``value`` (t, 2, n),
    real and imaginary part; ``envelope`` and ``weight`` (t, n). ``lens`` (t, 3) holds l, q and c of each image, in
    cycles for an angstrom of defocus. All are float32.
    """

    frequency: NDArray[np.float32]
    value: NDArray[np.float32]
    envelope: NDArray[np.float32]
    weight: NDArray[np.float32]
    lens: NDArray[np.float32]


def sums_of(parameters: int) -> int:
    """Return how many sums of each image there are for a number of parameters."""
    return parameters * (parameters + 1) // 2 + parameters + 1


@inlined
def _taken(images, tilt, defocus, first, count, block, lens):
    """Fill rows kx, ky, kz = 0, fr, fi, transfer, weight, and the transfer's slopes by z, a_1, a_2, for a block."""
    frequency, value = images.frequency, images.value[tilt]
    linear, quartic, constant = images.lens[tilt, 0], images.lens[tilt, 1], images.lens[tilt, 2]
    z, a, b = defocus[0], defocus[1], defocus[2]
    for j in range(BLOCK):
        i = min(first + j, count - 1)
        square, cosine, sine = frequency[2, i], frequency[3, i], frequency[4, i]
        cycles = linear * (z + a * cosine + b * sine) * square + quartic * square * square + constant
        cos, sin = circle(cycles)
        envelope = images.envelope[tilt, i]
        slope = TURN * linear * square * envelope * cos
        block[0, j], block[1, j], block[2, j] = frequency[0, i], frequency[1, i], np.float32(0.0)
        block[3, j], block[4, j], block[5, j] = value[0, i], value[1, i], envelope * sin
        block[6, j] = images.weight[tilt, i]
        lens[0, j], lens[1, j], lens[2, j] = slope, slope * cosine, slope * sine
    for j in range(count - first, BLOCK):
        block[6, j] = np.float32(0.0)


@inlined
def _with_lens(phase, contrast, block, lens, g, rows):
    """Turn the derivatives of g (rows 0-6, imaginary parts 9 rows later) into those of m; add those by the lens."""
    for j in range(BLOCK):
        cos, sin = circle((phase[0] * block[0, j] + phase[1] * block[1, j]) * np.float32(0.5 / np.pi))
        # g without its transfer, which the derivatives by the lens have in its place
        re, im = cos * g[j, 0] + sin * g[j, 1], cos * g[j, 1] - sin * g[j, 0]
        for a in range(3):
            slope = contrast * lens[a, j]
            rows[6 + a, j], rows[15 + a, j] = slope * re, slope * im


@inlined
def _placed(contrast, jacobian, rows):
    """Take the rows of ``derivatives`` that an image has: rotation and two phases times the contrast, and g."""
    for j in range(BLOCK):
        for a in range(5):
            rows[a, j], rows[9 + a, j] = contrast * jacobian[a, j], contrast * jacobian[7 + a, j]
        rows[5, j], rows[14, j] = jacobian[6, j], jacobian[13, j]


@inlined
def _add(parameters, contrast, block, rows, out):
    """Add the sums of a block to ``out``; rows 3 and 4 of ``block`` become the residual."""
    for j in range(BLOCK):
        block[3, j] -= contrast * rows[5, j]
        block[4, j] -= contrast * rows[14, j]
    place = 0
    for a in range(parameters):
        re, im = rows[a], rows[9 + a]
        for b in range(a, parameters):
            total = np.float32(0.0)
            for j in range(BLOCK):
                total += block[6, j] * (re[j] * rows[b, j] + im[j] * rows[9 + b, j])
            out[place] += total
            place += 1
    for a in range(parameters):
        total = np.float32(0.0)
        for j in range(BLOCK):
            total += block[6, j] * (rows[a, j] * block[3, j] + rows[9 + a, j] * block[4, j])
        out[place + a] += total
    total = np.float32(0.0)
    for j in range(BLOCK):
        total += block[6, j] * (block[3, j] * block[3, j] + block[4, j] * block[4, j])
    out[place + parameters] += total


@compiled
def tilt_equations(reference, images, rotations, phases, defocus, contrast, parameters, count, out):
    """Fill ``out`` (t, ``sums_of(parameters)``) float64 with the sums over the first ``count`` samples of each image.

    ``rotations`` (t, 3, 3), ``phases`` (t, 3) with the last 0, ``defocus`` (t, 3) of z, a_1, a_2, and ``contrast`` (t,)
    are float32; ``parameters`` is 7 or 9. Images without a weight above zero are left out.
    """
    place_memory, memory = scratch_int(), scratch_float()
    place, s = carray(place_memory, (BLOCK,)), carray(scratch_float(), (3, BLOCK))
    weight_memory, slope_memory, g_memory = scratch_float(), scratch_float(), scratch_float()
    w, d = carray(weight_memory, (3, 4, BLOCK)), carray(slope_memory, (3, 4, BLOCK))
    g, block, jacobian = carray(g_memory, (BLOCK, 8)), carray(memory, (9, BLOCK)), carray(scratch_float(), (14, BLOCK))
    rows, lens = carray(scratch_float(), (18, BLOCK)), carray(scratch_float(), (3, BLOCK))
    out[:] = 0.0
    for tilt in range(rotations.shape[0]):
        if images.weight[tilt].max() == 0.0:
            continue
        for first in range(0, count, BLOCK):
            _taken(images, tilt, defocus[tilt], first, count, block, lens)
            reference_slopes(reference, rotations[tilt], block, place, s, weight_memory, w, slope_memory, d, g_memory)
            derivatives(rotations[tilt], phases[tilt], reference.scale, block, g, jacobian)
            _placed(contrast[tilt], jacobian, rows)
            _with_lens(phases[tilt], contrast[tilt], block, lens, g, rows)
            _add(parameters, contrast[tilt], block, rows, out[tilt])
