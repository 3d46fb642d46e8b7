"""gonio aligns cryo-electron subtomograms by gradient.

The front door: every public name, imported when it is first used, so that ``import gonio`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gonio.alignment import Aligner, align
    from gonio.averaging import Average, average
    from gonio.ctf import Ctf
    from gonio.fourier import FourierVolume, Spectrum, fourier_shell_correlation
    from gonio.io import FormatError, read_particles, read_volume, write_particles, write_volume
    from gonio.lm import Status
    from gonio.orientations import euler_grid
    from gonio.pairwise import PairResult, align_all_pairs
    from gonio.particles import ParticleTable
    from gonio.pose import Pose
    from gonio.result import History, Optimum, Result
    from gonio.score import Score
    from gonio.settings import Inputs, Pool, Search, Settings
    from gonio.symmetry import Symmetry
    from gonio.volume import Subtomogram, TiltStack, Volume
    from gonio.wedge import (
        DualAxisWedge,
        NoWedge,
        SingleAxisWedge,
        SquaredTransferWedge,
        TiltListWedge,
        WeightVolumeWedge,
    )

__version__ = "0.1.0"

_ROOMS = {
    "alignment": ("Aligner", "align"),
    "averaging": ("Average", "average"),
    "ctf": ("Ctf",),
    "fourier": ("FourierVolume", "Spectrum", "fourier_shell_correlation"),
    "io": ("FormatError", "read_particles", "read_volume", "write_particles", "write_volume"),
    "lm": ("Status",),
    "orientations": ("euler_grid",),
    "pairwise": ("PairResult", "align_all_pairs"),
    "particles": ("ParticleTable",),
    "pose": ("Pose",),
    "result": ("History", "Optimum", "Result"),
    "score": ("Score",),
    "settings": ("Inputs", "Pool", "Search", "Settings"),
    "symmetry": ("Symmetry",),
    "volume": ("Subtomogram", "TiltStack", "Volume"),
    "wedge": (
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
