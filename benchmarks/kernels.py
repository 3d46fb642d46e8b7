"""The inner loops beside the same arithmetic in plain C, and beside what the machine can do at most.

The C loop (``kernels.c``) is compiled here and now with ``cc -O3 -march=native -ffast-math`` and must find the same
numbers. A sample is one of the target's at one pose.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from particles import PHANTOM, VOXEL_ANGSTROM, clean_map, simulated
from plan import Plan
from table import BUSY, Row, in_turns, rows_of

import gonio
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.kernels.window import DEGREE, SLOPE_COEFFICIENTS, VALUE_COEFFICIENTS, WIDTH

COMPILER, FLAGS = "cc", ("-O3", "-march=native", "-ffast-math", "-fPIC")
LOOPS = Path(__file__).with_name("kernels.c")
# gonio and C add up float32 in different orders, and interpolate with the same polynomials.
TOLERANCE = 1e-3
N_SUMS = 37

# Floating point operations of a sample, as docs/theory.md writes it; a multiplication and an addition are two, sine and
# cosine one each. Value and gradient: three windows and their derivatives, four planes of level and slope by y and
# three running sums, four sums along x; then transfer, (R grad G) x k, J and the sums.
_ROTATION, _WEDGE, _PHASE, _NEIGHBOURS = 15, 20, 7, 2 * WIDTH
_VALUES, _SLOPES = 2 * DEGREE * WIDTH, 2 * (DEGREE - 1) * WIDTH
_ROW = (2 * WIDTH - 1) * _NEIGHBOURS
_ALONG_X = 2 * (2 * WIDTH - 1)
FLOPS = {
    "value": _ROTATION + _WEDGE + _PHASE + 3 * _VALUES + WIDTH * (_ROW + 2 * _NEIGHBOURS) + _ALONG_X + 26,
    "normal equations": _ROTATION
    + _WEDGE
    + _PHASE
    + 3 * (_VALUES + _SLOPES)
    + WIDTH * (2 * _ROW + 3 * 2 * _NEIGHBOURS)
    + 4 * _ALONG_X
    + (8 + 2 * 24 + 2 + 24)
    + (21 * 4 + 12 + 6 * 9 + 13),
}
# The neighbours, of which most are in the nearest cache, and the sample itself: frequency, value and four weights.
BYTES = {"neighbours": 8 * WIDTH**3, "sample": 12 + 8 + 16}


class Pair:
    """A target's samples against a map, at many poses, for gonio and for C."""

    def __init__(self, box: int, poses: int) -> None:
        particle = simulated(1, box=box).particles[0]
        self.spectrum = Spectrum.of(particle, resolution_angstrom=40.0)
        # Nothing is missing in the map, so that no sample is left out.
        self.map = FourierVolume.of(clean_map(box=box), limit=self.spectrum.limit)
        self.comparison = Comparison(self.spectrum, self.map, score=Score.FCS)
        chosen = gonio.Pose.random(poses, rng=np.random.default_rng(0), max_shift_angstrom=PHANTOM.radius_angstrom / 4)
        self.rotations, self.shifts = chosen.matrix, chosen.shift_angstrom
        self.phase = 2.0 * np.pi / (box * VOXEL_ANGSTROM)

    @property
    def samples(self) -> int:
        """At all poses together."""
        return len(self.rotations) * len(self.spectrum)

    def ways(self, loops: ctypes.CDLL | None) -> dict[str, dict[str, object]]:
        """Of the value alone and of the normal equations: what computes them, by whom."""
        own = {
            "value": lambda _=0: self.comparison.shell_sums(self.rotations, self.shifts),
            "normal equations": lambda _=0: self.comparison.normal_equations(self.rotations, self.shifts),
        }
        plain = {"value": self._value_in_c, "normal equations": self._normal_equations_in_c}
        return {
            kind: {"gonio": own[kind], **({} if loops is None else {"C": lambda _=0, k=kind: plain[k](loops)})}
            for kind in own
        }

    def _call(self, function: object, *outputs: NDArray) -> None:
        f, g = self.spectrum, self.map
        shell = np.rint(f.radius).astype(np.int32)
        arrays = (g.grid, g.regions, f.frequency_xyz, f.value, f.transfer, f.weight, shell)
        poses = (np.float32(self.rotations), np.float32(self.phase * self.shifts))
        held = [np.ascontiguousarray(array) for array in (*arrays, VALUE_COEFFICIENTS, SLOPE_COEFFICIENTS, *poses)]
        numbers = [ctypes.c_int(n) for n in (g.side, len(g.regions), len(f), len(self.rotations))]
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (*held, *outputs)]
        function(*numbers, ctypes.c_float(float(g.scale)), *pointers)

    def _value_in_c(self, loops: ctypes.CDLL) -> NDArray[np.float64]:
        shells = int(np.rint(self.spectrum.limit)) + 1
        products = np.empty((len(self.rotations), len(self.spectrum)), np.complex64)
        sums = np.zeros((len(self.rotations), shells, 4))
        self._call(loops.value, np.array([shells], np.int32), products, sums)
        return sums

    def _normal_equations_in_c(self, loops: ctypes.CDLL) -> NDArray[np.float64]:
        sums = np.zeros((len(self.rotations), N_SUMS))
        self._call(loops.normal_equations, sums)
        return sums

    def difference(self, loops: ctypes.CDLL) -> float:
        """The largest difference between gonio and C in anything they compute, over the largest of its kind."""
        ways = self.ways(loops)
        pairs = [tuple(way() for way in ways["value"].values())]
        found, sums = (way() for way in ways["normal equations"].values())
        upper, units, total = np.triu_indices(6), np.repeat([1.0, self.phase], 3), sums[:, 36]
        scaled = units[upper[0]] * units[upper[1]] / total[:, None]
        pairs.append((found.hessian[:, upper[0], upper[1]], sums[:, :21] * scaled))
        pairs.append((found.descent, (sums[:, 21:27] - sums[:, 27:33]) * units / total[:, None]))
        pairs.append((found.dissimilarity, (sums[:, 33] + sums[:, 34] - 2.0 * sums[:, 35]) / total))
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def compiled_loops(folder: Path) -> ctypes.CDLL | None:
    """The C loops, or None where there is no compiler."""
    if shutil.which(COMPILER) is None:
        return None
    compiled, library = folder / "kernels.o", folder / "kernels.so"
    subprocess.run([COMPILER, *FLAGS, "-c", str(LOOPS), "-o", str(compiled)], check=True)
    # Linked without -ffast-math, which would set the whole process to round small numbers to zero.
    subprocess.run([COMPILER, "-shared", str(compiled), "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


def peak_flops(rounds: int) -> float:
    """Floating point operations per second of a float32 matrix product, one thread."""
    a = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)
    seconds = in_turns({"product": lambda _: a @ a}, rounds)["product"][:, BUSY].min()
    return 2.0 * len(a) ** 3 / seconds


def peak_bandwidth(rounds: int) -> float:
    """Bytes per second that a copy of 256 MB reads and writes."""
    source = np.ones(2**26, np.float32)
    target = np.empty_like(source)
    return 2.0 * source.nbytes / in_turns({"copy": lambda _: np.copyto(target, source)}, rounds)["copy"][:, BUSY].min()


def run(plan: Plan) -> list[Row]:
    """Nanoseconds for each sample."""
    flops, bandwidth = peak_flops(plan.rounds), peak_bandwidth(plan.rounds)
    peaks = f"{flops / 1e9:.0f} Gflop/s in a float32 matrix product, {bandwidth / 1e9:.1f} GB/s in a copy, one thread"
    rows = [Row("this machine at most", note=peaks)]
    with tempfile.TemporaryDirectory() as folder:
        loops = compiled_loops(Path(folder))
        if loops is None:
            rows.append(Row("plain C", note="left out, there is no compiler cc on this machine"))
        for box in plan.kernel_boxes:
            rows += _rows(Pair(box, plan.poses), loops, plan.rounds, flops)
    return rows


def _rows(pair: Pair, loops: ctypes.CDLL | None, rounds: int, peak: float) -> list[Row]:
    rows, size = [], f"{pair.spectrum.limit:.0f} shells"
    if loops is not None:
        difference = pair.difference(loops)
        rows.append(Row(f"gonio and C, {size}", note=f"differ by {difference:.1e} at most"))
        if not difference < TOLERANCE:
            raise SystemExit(f"the C loop and gonio differ by {difference:.1e}, more than {TOLERANCE:g}")
    for kind, ways in pair.ways(loops).items():
        names = {f"{kind}, {size}, {who}": way for who, way in ways.items()}
        seconds = in_turns(names, rounds)
        beside = list(names)[-1]
        found = rows_of(seconds, "sample", beside=beside, divisors=dict.fromkeys(names, pair.samples), clock=BUSY)
        rate = 1.0 / (found[0].busy or 1.0)
        note = (
            f"{rate / 1e6:.1f} million samples/s of {FLOPS[kind]} flops and {BYTES['neighbours']} + {BYTES['sample']}"
            f" bytes: {FLOPS[kind] * rate / 1e9:.1f} Gflop/s, {100 * FLOPS[kind] * rate / peak:.0f} % of the most;"
            f" {BYTES['neighbours'] * rate / 1e9:.1f} GB/s from the grid of {pair.map.grid.nbytes / 2**20:.1f} MB"
        )
        rows += [*found, Row(f"{kind}, {size}, gonio", note=note)]
    return rows
