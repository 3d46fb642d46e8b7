"""Simulated particles whose truth is exact: phantoms and structures, seen through a microscope."""

from gonio.simulate.microscope import PAPER_CTF, Imaging, simulate_subtomogram, simulate_tilt_stack
from gonio.simulate.phantom import PHANTOM_NAMES, Density, Phantom
from gonio.simulate.structure import Structure

__all__ = [
    "PAPER_CTF",
    "PHANTOM_NAMES",
    "Density",
    "Imaging",
    "Phantom",
    "Structure",
    "simulate_subtomogram",
    "simulate_tilt_stack",
]
