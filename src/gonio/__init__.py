"""gonio aligns cryo-electron subtomograms by gradient.

All public names are here. Each is imported when it is first used, so that ``import gonio`` is quick.
"""

import os
import sys

# ``python -m gonio`` looks for modules in the current folder first, where data from anywhere may lie: only what Python
# has loaded itself may be imported before this, not even __future__. The installed program does not look there.
if getattr(sys, "argv", [])[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] != [__file__.rsplit(os.sep, 2)[0]]:  # noqa: PTH109
    del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gonio.alignment.aligner import Aligner, align
    from gonio.alignment.columns import with_results
    from gonio.alignment.decoys import Competition, Decoys, compete, q_values
    from gonio.alignment.particle_list import align_table
    from gonio.alignment.result import History, Optimum, Result
    from gonio.averaging.averages import Average, average, average_classes, average_table
    from gonio.averaging.resolution import half_map_fsc
    from gonio.comparison.score import Score
    from gonio.fourier.fourier_volume import FourierVolume
    from gonio.fourier.fsc import fourier_shell_correlation
    from gonio.fourier.masks import soft_mask
    from gonio.fourier.spectrum import Spectrum
    from gonio.io import FormatError, read_particles, read_volume, write_particles, write_volume
    from gonio.particle.ctf import Ctf
    from gonio.particle.half_sets import overlapping_groups, split
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
    from gonio.run.executor import Executor, Local
    from gonio.search.gpu.multi_gpu import executor_for
    from gonio.search.levenberg_marquardt import Status
    from gonio.settings import (
        AxisSearch,
        GlobalSearch,
        Inputs,
        LocalSearch,
        PaperSearch,
        Pool,
        Settings,
    )
    from gonio.simulate import Imaging, Phantom, simulate_subtomogram
    from gonio.workflows.all_pairs import PairResult, align_all_pairs
    from gonio.workflows.classification import classes_of_references
    from gonio.workflows.clustering import AllPairs, cluster
    from gonio.workflows.initial_model import initial_model
    from gonio.workflows.refinement import refined
    from gonio.workflows.refinement_plan import Iteration, Plan

__version__ = "0.1.0"

_NAMES = {
    "alignment.aligner": ("Aligner", "align"),
    "alignment.columns": ("with_results",),
    "alignment.decoys": ("Competition", "Decoys", "compete", "q_values"),
    "alignment.particle_list": ("align_table",),
    "alignment.result": ("History", "Optimum", "Result"),
    "averaging.averages": ("Average", "average", "average_classes", "average_table"),
    "averaging.resolution": ("half_map_fsc",),
    "comparison.score": ("Score",),
    "fourier.fourier_volume": ("FourierVolume",),
    "fourier.fsc": ("fourier_shell_correlation",),
    "fourier.masks": ("soft_mask",),
    "fourier.spectrum": ("Spectrum",),
    "io": ("FormatError", "read_particles", "read_volume", "write_particles", "write_volume"),
    "particle.ctf": ("Ctf",),
    "particle.half_sets": ("overlapping_groups", "split"),
    "particle.orientations": ("euler_grid",),
    "particle.pose": ("Pose",),
    "particle.symmetry": ("Symmetry",),
    "particle.table": ("ParticleTable",),
    "particle.volume": ("Subtomogram", "TiltStack", "Volume"),
    "particle.wedge": (
        "DualAxisWedge",
        "NoWedge",
        "SingleAxisWedge",
        "SquaredTransferWedge",
        "TiltListWedge",
        "WeightVolumeWedge",
    ),
    "run.executor": ("Executor", "Local"),
    "search.gpu.multi_gpu": ("executor_for",),
    "search.levenberg_marquardt": ("Status",),
    "settings": (
        "AxisSearch",
        "GlobalSearch",
        "Inputs",
        "LocalSearch",
        "PaperSearch",
        "Pool",
        "Settings",
    ),
    "simulate": ("Imaging", "Phantom", "simulate_subtomogram"),
    "workflows.all_pairs": ("PairResult", "align_all_pairs"),
    "workflows.classification": ("classes_of_references",),
    "workflows.clustering": ("AllPairs", "cluster"),
    "workflows.initial_model": ("initial_model",),
    "workflows.refinement": ("Iteration", "Plan", "refined"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Aligner",
    "AllPairs",
    "Average",
    "AxisSearch",
    "Competition",
    "Ctf",
    "Decoys",
    "DualAxisWedge",
    "Executor",
    "FormatError",
    "FourierVolume",
    "GlobalSearch",
    "History",
    "Imaging",
    "Inputs",
    "Iteration",
    "Local",
    "LocalSearch",
    "NoWedge",
    "Optimum",
    "PairResult",
    "PaperSearch",
    "ParticleTable",
    "Phantom",
    "Plan",
    "Pool",
    "Pose",
    "Result",
    "Score",
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
    "align_table",
    "average",
    "average_classes",
    "average_table",
    "classes_of_references",
    "cluster",
    "compete",
    "euler_grid",
    "executor_for",
    "fourier_shell_correlation",
    "half_map_fsc",
    "initial_model",
    "overlapping_groups",
    "q_values",
    "read_particles",
    "read_volume",
    "refined",
    "simulate_subtomogram",
    "soft_mask",
    "split",
    "with_results",
    "write_particles",
    "write_volume",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gonio' has no attribute {name!r}")
    value = getattr(import_module(f"gonio.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
