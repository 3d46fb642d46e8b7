"""What all tests share: reproducible examples of hypothesis, and one object without symmetry."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

from oracle import Blobs

# The same examples on every machine and no wall clock: a test that fails once fails always.
settings.register_profile("gonio", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("gonio")

# Programs that ``test_cuda`` runs: one under the simulator of GPUs, one where their compiler is.
# ... and the fuzzer that needs an extra.
collect_ignore = [
    "cuda_compiled.py",
    "fuzz/guided.py",
    *([] if os.environ.get("NUMBA_ENABLE_CUDASIM") else ["cuda_simulated.py"]),
]


@pytest.fixture
def rng() -> np.random.Generator:
    """Fixed random numbers, fresh for each test."""
    return np.random.default_rng(20120626)


@pytest.fixture(scope="session")
def blobs() -> Blobs:
    """Four unlike Gaussians: no rotation or mirror maps this object on itself."""
    return Blobs.random()


@pytest.fixture(scope="module", autouse=True)
def pages_without_drawings(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the drawings out of pages, but for the tests of pages: they take half of the time of a small refinement."""
    if "report" in request.path.parts:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in ("figures", "pictures"):
            patch.setattr(f"gonio.report.{module}.svg_of", lambda figure, name: "<svg></svg>")
        yield
