"""gonio aligns cryo-electron subtomograms by gradient.

The front door: every public name, imported when it is first used, so that ``import gonio`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gonio.alignment.aligner import Aligner, align
    from gonio.alignment.result import History, Optimum, Result
    from gonio.averaging.average import Average, average
    from gonio.comparison.score import Score
    from gonio.fourier.fourier_volume import FourierVolume
    from gonio.fourier.fsc import fourier_shell_correlation
    from gonio.fourier.spectrum import Spectrum
    from gonio.io import FormatError, read_particles, read_volume, write_particles, write_volume
    from gonio.particle.ctf import Ctf
    from gonio.particle.orientations import euler_grid
    from gonio.particle.pose import Pose
    from gonio.particle.symmetry import Symmetry
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Subtomogram, TiltStack, Volume
    from gonio.particle.wedge import (
        DualAxisWedge,
        NoWedge,
        SingleAxisWedge,
        SquaredTransferWedge,
        TiltListWedge,
        WeightVolumeWedge,
    )
    from gonio.search.levenberg_marquardt import Status
    from gonio.settings import Inputs, Pool, Search, Settings
    from gonio.workflows.all_pairs import PairResult, align_all_pairs

__version__ = "0.1.0"

_ROOMS = {
    "alignment.aligner": ("Aligner", "align"),
    "averaging.average": ("Average", "average"),
    "particle.ctf": ("Ctf",),
    "fourier.fourier_volume": ("FourierVolume",),
    "fourier.fsc": ("fourier_shell_correlation",),
    "fourier.spectrum": ("Spectrum",),
    "io": ("FormatError", "read_particles", "read_volume", "write_particles", "write_volume"),
    "search.levenberg_marquardt": ("Status",),
    "particle.orientations": ("euler_grid",),
    "workflows.all_pairs": ("PairResult", "align_all_pairs"),
    "particle.table": ("ParticleTable",),
    "particle.pose": ("Pose",),
    "alignment.result": ("History", "Optimum", "Result"),
    "comparison.score": ("Score",),
    "settings": ("Inputs", "Pool", "Search", "Settings"),
    "particle.symmetry": ("Symmetry",),
    "particle.volume": ("Subtomogram", "TiltStack", "Volume"),
    "particle.wedge": (
        "DualAxisWedge",
        "NoWedge",
        "SingleAxisWedge",
        "SquaredTransferWedge",
        "TiltListWedge",
        "WeightVolumeWedge",
    ),
}
_OWNERS = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Aligner",
    "Average",
    "Ctf",
    "DualAxisWedge",
    "FormatError",
    "FourierVolume",
    "History",
    "Inputs",
    "NoWedge",
    "Optimum",
    "PairResult",
    "ParticleTable",
    "Pool",
    "Pose",
    "Result",
    "Score",
    "Search",
    "Settings",
    "SingleAxisWedge",
    "Spectrum",
    "SquaredTransferWedge",
    "Status",
    "Subtomogram",
    "Symmetry",
    "TiltListWedge",
    "TiltStack",
    "Volume",
    "WeightVolumeWedge",
    "align",
    "align_all_pairs",
    "average",
    "euler_grid",
    "fourier_shell_correlation",
    "read_particles",
    "read_volume",
    "write_particles",
    "write_volume",
]


def __getattr__(name: str) -> object:
    if name not in _OWNERS:
        raise AttributeError(f"module 'gonio' has no attribute {name!r}")
    value = getattr(import_module(f"gonio.{_OWNERS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
