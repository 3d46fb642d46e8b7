"""The report of a run: one HTML page that needs no other file and no network.

Flow: values (content) -> the verdict that they allow (verdict), figures (plots, pictures, matrices, surface) and
tables -> page; and scripts that show maps and particles in ChimeraX (chimerax). Matplotlib and plotly are imported when
a page is made. Must not know files, commands or alignment.
"""

from gonio.report.chimerax import MapFile, maps_script, particle_scene
from gonio.report.content import (
    Chapter,
    Classes,
    Directions,
    Errors,
    Iteration,
    LocalDetail,
    MapQuality,
    Matrix,
    Outlier,
    Report,
    Sharpening,
    TiltCurve,
)
from gonio.report.outliers import outlying_particles
from gonio.report.page import html
from gonio.report.verdict import Check, Competing, Divided, Evidence, Grade, Verdict, verdict_of

__all__ = [
    "Chapter",
    "Check",
    "Classes",
    "Competing",
    "Divided",
    "Directions",
    "Errors",
    "Evidence",
    "Grade",
    "Iteration",
    "LocalDetail",
    "MapFile",
    "MapQuality",
    "Matrix",
    "Outlier",
    "Report",
    "Sharpening",
    "TiltCurve",
    "Verdict",
    "html",
    "maps_script",
    "outlying_particles",
    "particle_scene",
    "verdict_of",
]
