"""Simulated particles whose true poses are known exactly: phantoms and structures, imaged by a microscope."""

from gonio.simulate.microscope import (
    DEFAULT_CTF,
    PAPER_CTF,
    CtfCorrection,
    Imaging,
    simulate_subtomogram,
    simulate_tilt_stack,
)
from gonio.simulate.phantom import PHANTOM_NAMES, Density, Phantom
from gonio.simulate.structure import Structure

__all__ = [
    "DEFAULT_CTF",
    "PAPER_CTF",
    "PHANTOM_NAMES",
    "CtfCorrection",
    "Density",
    "Imaging",
    "Phantom",
    "Structure",
    "simulate_subtomogram",
    "simulate_tilt_stack",
]
