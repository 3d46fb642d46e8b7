"""The work of commands, for Python: files in, files out, values returned and nothing printed; one module a command.

A job takes the options of its command, those that several share as values. Warnings are Python's; progress is passed
to the callback ``progress``. A job raises ValueError for options that do not fit together (``ArgumentError``), for
files that are broken or do not fit (``FormatError``; a particle is named) and for results that are there already, and
OSError where it cannot write. In all of them

    particles                the list: ``ListOptions``
    search, known, run       ``SearchOptions``, ``ReferenceOptions`` and ``RunOptions``
    seed                     seed of the random numbers
    threads, progress        as in ``RunOptions``, for jobs that need no more of it
    overwrite                replaces results that are already there

    from gonio.jobs import ListOptions, RunOptions, SearchOptions, align
    aligned = align(
        ListOptions("particles.star", tilt_range_deg=(-60, 60)),
        reference="map.mrc",
        output="aligned",
        search=SearchOptions(resolution_angstrom=20),
        run=RunOptions(threads=4),
    )
    aligned.table.to_pandas()
"""

from gonio.jobs.align import Aligned, align
from gonio.jobs.average import Averaged, average
from gonio.jobs.classify import Classified, classify
from gonio.jobs.compare import Comparison, compare
from gonio.jobs.convert import Converted, convert
from gonio.jobs.extract import Extracted, extract
from gonio.jobs.inspect import Inspection, inspect
from gonio.jobs.join import Joined, join
from gonio.jobs.map import Mapped, map_
from gonio.jobs.map_quality import Postprocessed, SharpeningOptions
from gonio.jobs.mask import Masked, mask
from gonio.jobs.options import (
    DecoyOptions,
    ListOptions,
    LocalOptions,
    ReferenceOptions,
    SearchOptions,
    TiltOptions,
)
from gonio.jobs.pair import Fit, Paired, pair
from gonio.jobs.postprocess import postprocess
from gonio.jobs.refine import Refined, refine
from gonio.jobs.refine_tilts import TiltsRefined, tilts
from gonio.jobs.running import RunOptions
from gonio.jobs.select import Selected, select
from gonio.jobs.simulate import Simulated, simulate
from gonio.particle.arguments import ArgumentError

__all__ = [
    "Aligned",
    "ArgumentError",
    "Averaged",
    "Classified",
    "Comparison",
    "Converted",
    "DecoyOptions",
    "Extracted",
    "Fit",
    "Inspection",
    "Joined",
    "ListOptions",
    "LocalOptions",
    "Mapped",
    "Masked",
    "Paired",
    "Postprocessed",
    "ReferenceOptions",
    "Refined",
    "RunOptions",
    "SearchOptions",
    "Selected",
    "SharpeningOptions",
    "Simulated",
    "TiltOptions",
    "TiltsRefined",
    "align",
    "average",
    "classify",
    "compare",
    "convert",
    "extract",
    "inspect",
    "join",
    "map_",
    "mask",
    "pair",
    "postprocess",
    "refine",
    "select",
    "simulate",
    "tilts",
]
