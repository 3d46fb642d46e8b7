"""Compiles the kernels for a GPU of compute capability 9.0 where there is none, and prints what they came to.

    python tests/cuda_compiled.py | grep -E "^===|Used|spill"

Needs a compiler of NVIDIA's: pip install 'numba-cuda[cu12]' 'nvidia-cuda-nvcc-cu12'.
"""

import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numba.cuda.dispatcher
import nvidia.cuda_nvcc
from numba import cuda
from numba import types as t

from gonio.kernels.cuda import REGISTERS, kernels
from gonio.kernels.cuda_samples import THREADS
from gonio.kernels.cuda_stages import stage_kernels

# Functions that a kernel calls are compiled for the GPU at hand.
numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(9, 0))

ASSEMBLER = Path(next(iter(nvidia.cuda_nvcc.__path__))) / "bin" / "ptxas"
f4, f8, i4, i8 = ({n: t.Array(kind, n, "C") for n in (1, 2, 3)} for kind in (t.float32, t.float64, t.int32, t.int64))
whole, number, flag = t.int64, t.float64, t.boolean
RESIDENT = [f4[1], f4[2], f4[1], i8[2], f4[2], f4[2]]
COMMON = [*RESIDENT, f4[2], i8[2]]
SUMS = [*COMMON, i8[1], f8[1], i8[1], i8[1], i8[1], whole, whole, f8[2], f8[2]]
SHIFTS = [*COMMON, i8[2], f8[2], i8[2], whole, f8[2], f8[2], f4[2], f4[3], f4[3], f8[2], f8[1]]
STATE = [f8[2], f8[1], f8[3], f8[2], f8[1], f8[1], i8[1], i8[1]]
REFINE = [*COMMON, i8[2], f8[2], i8[1], i8[1], whole, i8[1], *STATE]
POOL = [f8[2], f8[1], i8[1], f8[1]]
made, stages = kernels(), stage_kernels(THREADS)
KERNELS = {
    "normal_equations": (made.normal_equations, SUMS, True),
    "totals": (made.totals, SUMS, True),
    "best_shifts": (made.best_shifts, SHIFTS, True),
    "refine": (made.refine[6], REFINE, False),
    "weigh": (
        stages.weigh,
        [whole, number, number, number, i8[2], f8[2], f8[1], f8[2], f4[2], f4[2], i8[2], f4[2], i8[2], f8[2]],
        False,
    ),
    "nulls": (stages.nulls, [i8[2], f8[2], whole, whole, f8[1], f8[2]], False),
    "keep_seeds": (
        stages.keep_seeds,
        [i8[2], f8[2], f8[1], number, whole, whole, whole, whole, i8[1], f8[1], f8[2], i8[1]],
        False,
    ),
    "leave": (
        stages.leave,
        [
            f8[2], f8[3], number, flag, flag, number, whole, whole, whole, whole, f8[1], i8[1], *POOL, i8[1], i8[1],
            f8[2], i8[1], whole, *POOL,
        ],
        False,
    ),
    "expect": (stages.expect, [i8[2], f8[2], whole, f8[1], f8[1], f8[2], f8[1]], False),
    "search_neighbours": (stages.search_neighbours, [f8[2], whole, whole, i8[1], f8[2]], False),
    "values": (stages.values, [f8[2], i8[1], i8[1], whole, i8[2], f8[2], f8[1]], False),
    "choices": (
        stages.choices,
        [i8[2], f8[2], f8[2], whole, whole, i8[1], i8[2], f8[2], f8[2], f8[1]],
        False,
    ),
    "curvatures": (
        stages.curvatures,
        [i8[2], f8[2], i8[2], i8[1], f8[2], f4[2], f8[2], whole, f8[2], f8[3], f8[3]],
        False,
    ),
}  # fmt: skip

for name, (kernel, arguments, fast) in KERNELS.items():
    ptx, _ = cuda.compile(
        kernel.py_func, t.void(*arguments), cc=(9, 0), device=False, abi="numba", output="ptx", fastmath=fast
    )
    ptx = ptx if isinstance(ptx, str) else ptx.decode()
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        limit = [f"-maxrregcount={REGISTERS}"] if name == "refine" else []
        command = [ASSEMBLER, "-v", "-arch=sm_90", *limit, file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"=== {name}\n{ptx}\n--- assembler\n{done.stderr}")
