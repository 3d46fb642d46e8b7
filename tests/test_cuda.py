"""GPUs: the same results as the CPU, and one sentence where there is none.

Under Numba's simulator, which has to be chosen before anything is imported, ``cuda_simulated`` runs in a process of its
own. What needs a GPU is left out where there is none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import gonio
from gonio.search.gpu import device

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from particles import clean_map, simulated  # noqa: E402


def works() -> bool:
    try:
        return device.opened("cuda") is not None
    except ValueError:
        return False


needs_gpu = pytest.mark.skipif(not works(), reason="there is no GPU that works here")
without_gpu = pytest.mark.skipif(works(), reason="there is a GPU")


@pytest.mark.simulator
@pytest.mark.slow
@pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
def test_simulated_gpus_compute_what_the_cpu_computes():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "cuda_simulated.py")]
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parent, check=False)
    assert done.returncode == 0 and re.search(r"\d+ passed|^\.+", done.stdout, re.M), done.stdout + done.stderr


@without_gpu
def test_without_a_gpu_one_sentence_says_what_to_do():
    with pytest.raises(ValueError, match=r"^device cuda (cannot be used|needs numba-cuda)[^\n]*$"):
        gonio.Aligner(gonio.Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), 10.0), device="cuda")


@without_gpu
def test_auto_is_the_cpu_where_there_is_no_gpu():
    map_ = gonio.Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), 10.0)
    assert gonio.Aligner(map_, device="auto").device == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=f"device must be .* got '{name}'"):
        device.opened(name)


@pytest.mark.parametrize("settings", [{"search": "stochastic"}, {"pool": "drawn"}])
def test_searches_that_draw_are_for_the_cpu(settings):
    with pytest.raises(ValueError, match=r"draws them one by one.* runs with device cpu"):
        device.device_for("cuda", draws=gonio.Settings(**settings).draws)
    assert device.device_for("auto", draws=gonio.Settings(**settings).draws) is None


def test_the_front_door_does_not_load_cuda():
    loaded = "[m for m in sys.modules if m.startswith(('numba.cuda', 'numba_cuda'))]"
    code = f"import sys, gonio, gonio.alignment.aligner; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@cache
def compiled_for_a_gpu() -> dict[str, tuple[str, str]]:
    """Each kernel for a GPU of compute capability 9.0: its PTX, and what the assembler says of it."""
    code = (HERE / "cuda_compiled.py").read_text()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.split(r"^=== (\w+)\n", done.stdout, flags=re.M)[1:]
    return {name: tuple(text.split("--- assembler\n")) for name, text in zip(found[::2], found[1::2], strict=True)}


def assembler() -> bool:
    return find_spec("numba_cuda") is not None and find_spec("nvidia") is not None


@pytest.mark.skipif(not assembler(), reason="numba-cuda with its compiler is not installed")
@pytest.mark.parametrize(("kernel", "registers"), [("normal_equations", 168), ("totals", 128), ("best_shifts", 128)])
def test_samples_are_done_in_float32_and_in_registers(kernel, registers):
    ptx, told = compiled_for_a_gpu()[kernel]
    double = re.findall(r"(?:fma|mul|div|sqrt)\S*\.f64", ptx)
    # A shift becomes three phases before the loops; best shifts end with a dissimilarity after them.
    assert len(double) <= 3 or kernel == "best_shifts", "float64 arithmetic besides the sums of threads"
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in told
    assert int(re.search(r"Used (\d+) registers", told)[1]) <= registers


@needs_gpu
def test_a_gpu_chooses_what_the_cpu_chooses():
    map_, targets = clean_map(), simulated(1000).particles
    wanted = gonio.Aligner(map_).align_many(targets, n_threads=os.cpu_count() or 1)
    found, again = (gonio.Aligner(map_, device="cuda").align_many(targets) for _ in range(2))
    same = 0
    for one, two, three in zip(found, wanted, again, strict=True):
        assert np.array_equal(one.pose.matrix, three.pose.matrix) and one.dissimilarity == three.dissimilarity
        degrees, voxels = apart(one, two)
        same += degrees < 0.01 and voxels < 0.001
    assert same >= 995


def apart(one: gonio.Result, two: gonio.Result) -> tuple[float, float]:
    """Degrees, and voxels of 10 angstrom."""
    shift = one.pose.shift_angstrom - two.pose.shift_angstrom
    return float(one.pose.rotation_distance_deg(two.pose)), float(np.abs(shift).max()) / 10.0
