"""``gonio convert``: a particle list in the format of another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gonio.cli.options import Overwrite, positive
from gonio.cli.output import check_target, write_settings

if TYPE_CHECKING:
    from gonio.io.conversion import WriteOptions
    from gonio.io.formats import Format
    from gonio.particle.table import ParticleTable

SHOWN = 3


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The list; its format is told by what it holds.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The list to write; its ending tells the format.")],
    from_format: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help="Of IN, where it must not be guessed.")
    ] = None,
    to_format: Annotated[
        str | None,
        typer.Option("--to", metavar="FORMAT", help="Of OUT, where its ending does not tell, as for older STAR lists."),
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            "--pixel-size",
            metavar="A",
            callback=positive,
            help="Of the pixels that IN counts coordinates in, angstrom, in place of what it says.",
        ),
    ] = None,
    to_pixel_size: Annotated[
        float | None,
        typer.Option(
            "--to-pixel-size",
            metavar="A",
            callback=positive,
            help="Of the pixels that OUT counts in, such as those of binned tomograms. Default: as IN.",
        ),
    ] = None,
    tomogram_size: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            "--tomogram-size",
            metavar="X Y Z",
            help="Of all tomograms, in IN's pixels: to count from their centre (RELION 5, EMAN2) or no longer so.",
        ),
    ] = None,
    tomograms: Annotated[
        Path | None,
        typer.Option(
            "--tomograms",
            metavar="FILE",
            help="tomograms.star or a STOPGAP wedge list, for the sizes of tomograms. Default: what the list names.",
        ),
    ] = None,
    centre: Annotated[
        str,
        typer.Option(
            "--centre",
            metavar="size/2|size/2-1|floor",
            help="Which voxel is the centre of a tomogram: size/2 in RELION itself, size/2-1 in its Python pickers.",
        ),
    ] = "size/2",
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Make coordinates whole pixels, the rest a shift: for programs that cut boxes at whole voxels.",
        ),
    ] = False,
    tomostar: Annotated[
        bool,
        typer.Option(
            "--tomostar",
            help="Name tomograms as WarpTools names their tilt series: TS_01.tomostar of TS_01_10.00Apx.mrc.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written, what would be lost, and three particles.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a particle list in the format of another program.

    Formats: relion5, relion4, relion3.1, relion3.0, warp, dynamo, stopgap, av3, pytom, eman, eman-json, peet, imod,
    csv, parquet; eman-boxes is read only. Poses, positions, half sets, classes, scores and every other column are kept
    where the format has a place for them, and `--dry-run` says where not.

    OUT is written, OUT.settings.toml beside it, and what else the format needs: optimisation_set.star with lists of
    2-D stacks, OUT.doc with the names of tomograms that a format numbers, NAME.mod with PEET's lists.

    Example: `gonio convert particles.star particles.tbl`
    """
    from gonio.io.conversion import losses, prepared
    from gonio.io.formats import format_named, format_of, format_of_ending
    from gonio.io.lists import keeps_text

    given = format_of(source) if from_format is None else format_named(from_format)
    wanted = format_of_ending(target) if to_format is None else format_named(to_format)
    if wanted.write is None:
        raise ValueError(f"{wanted.title} is read and not written: choose another format")
    table = _read(source, given, pixel_size, tomograms)
    options = None
    made = table
    if (
        not keeps_text(target, table, wanted.name)
        or whole
        or tomostar
        or any(v is not None for v in (pixel_size, to_pixel_size))
    ):
        options = _write_options(table, wanted, to_pixel_size, tomogram_size, tomograms, centre)
        options = replace(options, whole=whole, tomostar=tomostar)
        made = prepared(table, wanted, options, path=source)
    _tell(source, table, target, made, (given, wanted))
    for lost in losses(made, wanted) if options is not None else []:
        print(f"{wanted.title} cannot hold: {lost}")
    _warn(table, made, wanted)
    if dry_run:
        _show(table, made, (given, wanted))
        return
    settings_path = target.with_name(f"{target.name}.settings.toml")
    for path in (*wanted.files(target, made), settings_path):
        check_target(path, overwrite=overwrite)
    _write(target, table, wanted, options)
    settings = {
        "from": given.name,
        "to": wanted.name,
        "pixel_size_angstrom": pixel_size,
        "to_pixel_size_angstrom": to_pixel_size,
        "tomogram_size_px": tomogram_size,
        "tomograms": tomograms,
        "centre": centre,
        "whole": whole,
        "tomostar": tomostar,
    }
    write_settings(settings_path, settings, inputs=table.files)


def _read(path: Path, given: Format, pixel_size: float | None, tomograms: Path | None) -> ParticleTable:
    from gonio.io.lists import read_with
    from gonio.io.source import ReadOptions
    from gonio.io.stopgap import is_wedge_list

    # the wedge list of a STOPGAP list is read with it; other sizes of tomograms are for what is written
    own = tomograms is not None and is_wedge_list(tomograms) == (given.name == "stopgap")
    options = ReadOptions(
        pixel_size_angstrom=pixel_size, may_count_pixels=True, tomograms_path=tomograms if own else None
    )
    return read_with(path, options, format=given.name)


def _write_options(
    table: ParticleTable,
    wanted: Format,
    pixel_size: float | None,
    tomogram_size: tuple[float, float, float] | None,
    tomograms: Path | None,
    centre: str,
) -> WriteOptions:
    from gonio.io.conversion import CENTRES, TomogramSizes, WriteOptions, needs_centres

    if centre not in CENTRES:
        raise ValueError(f"--centre must be {', '.join(CENTRES)}, got {centre!r}")
    sizes = TomogramSizes()
    if needs_centres(table, wanted) and tomogram_size is None:
        if tomograms is None and table.source is not None:
            tomograms = table.source.sizes_path
        sizes = sizes if tomograms is None else TomogramSizes.read(tomograms)
    if tomogram_size is not None:
        if min(tomogram_size) <= 0:
            raise ValueError(f"--tomogram-size must be three positive numbers, got {tomogram_size}")
        sizes = TomogramSizes(every=tomogram_size)
    return WriteOptions(pixel_size, sizes, centre)


def _write(target: Path, table: ParticleTable, wanted: Format, options: WriteOptions | None) -> None:
    from gonio.io import write_particles

    target.parent.mkdir(parents=True, exist_ok=True)
    written = write_particles(target, table, format=wanted.name, options=options)
    print(f"wrote {', '.join(map(str, written))}")


def _tell(source: Path, table: ParticleTable, target: Path, made: ParticleTable, kinds: tuple[Format, Format]) -> None:
    """Both lists in a line each."""
    for word, path, what, kind in (("from", source, table, kinds[0]), ("to", target, made, kinds[1])):
        print(f"{word:5}{path}: {kind.title}, {len(what)} particles, {_pixels(what)}{_start(what)}")


def _warn(table: ParticleTable, made: ParticleTable, wanted: Format) -> None:
    """Of what is written as it was found and will not do what it should."""
    import warnings

    from gonio.io.formats import stated_angles
    from gonio.io.names import tomostar
    from gonio.workflows.inspection import angles_in_radians, angles_out_of_range

    angles = stated_angles(table)
    for found in () if angles is None else (angles_out_of_range(angles), angles_in_radians(angles)):
        if found is not None:
            warnings.warn(f"{table.files[0]}: {found}", RuntimeWarning, stacklevel=2)
    name = next((name for name in made.tomograms if name and not name.endswith(".tomostar")), None)
    if wanted.name == "warp" and name is not None:
        print(f"WarpTools looks for {tomostar(name)}, and {name} is what this list calls it: pass --tomostar for that")


def _pixels(table: ParticleTable) -> str:
    sizes = table.pixel_sizes_angstrom
    if sizes is None:
        return "pixels of unknown size" if table.lengths == "pixels" else "in angstrom"
    few = np.unique(sizes)
    return f"pixels of {few[0]:g} A" if len(few) == 1 else f"pixels of {few[0]:g} to {few[-1]:g} A"


def _start(table: ParticleTable) -> str:
    if table.coordinates_angstrom is None:
        return ", no positions"
    return f", positions from the {table.coordinates_from} of the tomogram"


def _show(table: ParticleTable, made: ParticleTable, kinds: tuple[Format, Format]) -> None:
    """The first particles in the words of both formats, side by side."""
    from gonio.io.formats import stated_poses

    first = slice(0, SHOWN)
    left, right = stated_poses(table[first]), kinds[1].shown(made[first])
    for index, name in enumerate(table.names[:SHOWN]):
        print(f"\n{name}")
        rows = zip_longest(_lines(left, index), _lines(right, index), fillvalue="")
        for one, other in rows:
            print(f"  {one:<44}{other}".rstrip())


def _lines(columns: Mapping[str, Sequence[str]], index: int) -> list[str]:
    width = max(map(len, columns), default=0)
    return [f"{label:<{width}} {float(values[index]):12.4f}" for label, values in columns.items()]
