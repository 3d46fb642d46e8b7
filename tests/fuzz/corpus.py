"""A small, whole file for every reader, made by gonio's own writers or by hand; each in a folder of its own."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import mrcfile
import numpy as np

from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.em import write_em
from gonio.io.lists import write_particles
from gonio.io.mrc import write_mrc
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

PIXEL, BOX, COUNT = 2.5, 6, 5
SIZE = (400.0, 401.0, 200.0)
LISTS = {
    "relion5": "a.star",
    "relion4": "a.star",
    "relion3.1": "a.star",
    "relion3.0": "a.star",
    "warp": "a.star",
    "stopgap": "a.star",
    "av3": "a.em",
    "pytom": "a.xml",
    "eman": "a.lst",
    "eman-json": "a.json",
    "peet": "a.csv",
    "imod": "a.mod",
    "csv": "a.csv",
    "parquet": "a.parquet",
    "dynamo": "a.tbl",
}


def sample(count: int = COUNT, *, tomograms: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> ParticleTable:
    """A list with everything that a list may hold."""
    rng = np.random.default_rng(7)
    return ParticleTable(
        poses=Pose.random(count, rng=rng, max_shift_angstrom=4 * PIXEL),
        names=names or tuple(str(number) for number in range(1, count + 1)),
        tomograms=tomograms or ("TS_01",) * count,
        coordinates_angstrom=rng.uniform(0, 900, (count, 3)),
        half_sets=rng.integers(1, 3, count).astype(np.int8),
        pixel_sizes_angstrom=np.full(count, PIXEL),
        classes=rng.integers(1, 4, count),
        scores=rng.uniform(0, 1, count).round(3),
        columns={"log_likelihood": rng.normal(size=count), "status": np.array(["converged"] * count)},
        extras={"rlnGroupNumber": ("1",) * count, "remark": ("two words",) * count},
    )


def written(name: str) -> Callable[[Path], None]:
    """The same list in a format."""

    def write(folder: Path) -> None:
        options = WriteOptions(sizes=TomogramSizes(every=SIZE))
        write_particles(folder / LISTS[name], sample(), format=name, options=options)

    return write


TILTS = (-40.0, -20.0, 0.0, 20.0, 40.0)
OVERVIEW = (
    "data_global\n\nloop_\n_rlnTomoName #1\n_rlnTomoHand #2\n_rlnTomoTiltSeriesPixelSize #3\n_rlnTomoSizeX #4\n"
    "_rlnTomoSizeY #5\n_rlnTomoSizeZ #6\n_rlnVoltage #7\n_rlnSphericalAberration #8\n_rlnAmplitudeContrast #9\n"
    "TS_01 -1 2.5 400 400 200 300 2.7 0.1\n\n"
)
GENERAL = (
    "data_general\n\n_rlnTomoSubTomosAre2DStacks 1\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n"
    "_rlnVoltage #3\n_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnCtfDataAreCtfPremultiplied #6\n"
    "1 2.5 300 2.7 0.1 1\n\ndata_particles\n\nloop_\n_rlnTomoName #1\n_rlnTomoParticleName #2\n_rlnAngleRot #3\n"
    "_rlnAngleTilt #4\n_rlnAnglePsi #5\n_rlnCenteredCoordinateXAngst #6\n_rlnCenteredCoordinateYAngst #7\n"
    "_rlnCenteredCoordinateZAngst #8\n_rlnImageName #9\n_rlnTomoVisibleFrames #10\n_rlnOpticsGroup #11\n"
)


def stacks(folder: Path) -> None:
    """2-D stacks of RELION 5, their tomograms and an optimisation set."""
    rows = "".join(f"TS_01 p/{i} 10 20 30 {i} 2.5 -7 {i}.mrcs [1,1,0,1,1] 1\n" for i in range(2))
    (folder / "a.star").write_text(GENERAL + rows)
    tilts = "".join(f"0.5 {tilt} 85 20000 19000 12 {3 * i} 0.9\n" for i, tilt in enumerate(TILTS))
    labels = ("XTilt", "YTilt", "ZRot")
    head = "".join(f"_rlnTomo{label} #{i}\n" for i, label in enumerate(labels, 1))
    head += (
        "_rlnDefocusU #4\n_rlnDefocusV #5\n_rlnDefocusAngle #6\n_rlnMicrographPreExposure #7\n_rlnCtfScalefactor #8\n"
    )
    (folder / "tomograms.star").write_text(f"{OVERVIEW}data_TS_01\n\nloop_\n{head}{tilts}")
    sets = "data_\n\n_rlnTomoParticlesFile a.star\n_rlnTomoTomogramsFile tomograms.star\n"
    (folder / "optimisation_set.star").write_text(sets)
    for i in range(2):
        with mrcfile.new(folder / f"{i}.mrcs", overwrite=True) as mrc:
            mrc.set_data(np.random.default_rng(i).normal(size=(5, BOX, BOX)).astype(np.float16))
            mrc.voxel_size = PIXEL


def subtomogram(folder: Path) -> None:
    """A list of one 3-D subtomogram with a volume in rlnCtfImage."""
    rng = np.random.default_rng(0)
    write_mrc(folder / "a.mrc", rng.normal(size=(BOX,) * 3).astype(np.float32), PIXEL)
    write_mrc(folder / "ctf.mrc", rng.uniform(0, 1, (BOX, BOX, BOX // 2 + 1)).astype(np.float32), PIXEL)
    labels = ("ImageName", "CtfImage", "PixelSize", "CoordinateX", "CoordinateY", "CoordinateZ", "OriginX", "OriginY")
    head = "".join(f"_rln{label}\n" for label in (*labels, "OriginZ", "RandomSubset", "ClassNumber"))
    (folder / "a.star").write_text(f"data_\nloop_\n{head}a.mrc ctf.mrc 2.5 10 11 12 1 2 3 1 1\n")


SERIES = (
    *("Voltage", "SphericalAberration", "AmplitudeContrast", "DefocusU", "DefocusV", "DefocusAngle", "ImageName"),
    *("AngleRot", "AngleTilt", "AnglePsi", "CtfBfactor", "CtfScalefactor", "RandomSubset", "GroupName", "PixelSize"),
)


def series(folder: Path) -> None:
    """A particle series of M."""
    rows = "".join(
        f"300 2.7 0.1 20000 19000 12 {3 * p + i + 1}@a.mrcs {10 * p} {20 * i} 30 {-4 * i} 0.9 1 TS_01_{p} 2.5\n"
        for p in range(2)
        for i in range(3)
    )
    (folder / "a.star").write_text("data_\nloop_\n" + "".join(f"_rln{label}\n" for label in SERIES) + rows)
    with mrcfile.new(folder / "a.mrcs", overwrite=True) as mrc:
        mrc.set_data(np.random.default_rng(1).normal(size=(6, BOX, BOX)).astype(np.float32))


def species(folder: Path) -> None:
    """A list of a species of M."""
    labels = ("CoordinateX1", "CoordinateY1", "CoordinateZ1", "AngleRot1", "AngleTilt1", "AnglePsi1", "RandomSubset")
    head = "".join(f"_wrp{label}\n" for label in (*labels, "SourceName"))
    (folder / "a.star").write_text(
        f"data_\nloop_\n{head}10 20 30 1 2 3 1 TS_01.tomostar\n11 20 30 1 2 3 2 TS_01.tomostar\n"
    )


def boxes(folder: Path) -> None:
    """An info file of EMAN2."""
    found = [
        [10.5, -2, 30, "manual", 0.9, 1],
        [1, 2, 3, "manual", 0.8, 0, {"xform.align3d": "[1,0,0,1,0,1,0,2,0,0,1,3]"}],
    ]
    (folder / "a.json").write_text(
        json.dumps({"apix_unbin": 2.5, "boxes_3d": found, "class_list": {"0": {"name": "a"}}})
    )


WEDGES = (
    "data_stopgap_wedgelist\n\nloop_\n_tomo_num\n_pixelsize\n_tomo_x\n_tomo_y\n_tomo_z\n_tilt_angle\n_exposure\n_defocus\n"
    "_voltage\n_amp_contrast\n_cs\n"
)


def wedge_list(folder: Path) -> None:
    """A wedge list of STOPGAP."""
    rows = "".join(f"1 2.5 400 400 200 {tilt} {3 * i} 2.5 300 0.1 2.7\n" for i, tilt in enumerate(TILTS))
    (folder / "a.star").write_text(WEDGES + rows)


def tlt(folder: Path) -> None:
    """Tilt angles of IMOD."""
    (folder / "a.tlt").write_text("".join(f"  {tilt:.2f}\n" for tilt in TILTS))


def mdoc(folder: Path) -> None:
    """An mdoc of SerialEM."""
    text = "PixelSpacing = 2.5\nImageFile = a.mrc\n\n[T = SerialEM: of a microscope]\n\n"
    for i, tilt in enumerate(TILTS):
        text += f"[ZValue = {i}]\nTiltAngle = {tilt}\nExposureDose = 3\nPriorRecordDose = {3 * i}\n"
        text += f"DateTime = 04-Mar-20  18:{i:02d}:00\nSubFramePath = X:\\a b\\{i}.tif\n\n"
    (folder / "a.mdoc").write_text(text)


def tilts_of_relion(folder: Path) -> None:
    """A tilt series of RELION 5."""
    rows = "".join(f"{tilt} {3 * i} [1,0,0,0] [0,1,0,0] [0,0,1,0]\n" for i, tilt in enumerate(TILTS))
    labels = ("rlnTomoNominalStageTiltAngle", "rlnMicrographPreExposure", *(f"rlnTomoProj{axis}" for axis in "XYZ"))
    (folder / "a.star").write_text("data_TS_01\n\nloop_\n" + "".join(f"_{label}\n" for label in labels) + rows)


def image(kind: str) -> Callable[[Path], None]:
    """A map, plain or compressed, in several modes."""

    def write(folder: Path) -> None:
        data = np.random.default_rng(3).normal(size=(BOX,) * 3)
        if kind == "em":
            write_em(folder / "a.em", data.astype(np.float32), voxel_size_angstrom=PIXEL)
            return
        with mrcfile.new(folder / "plain.mrc", overwrite=True) as mrc:
            mrc.set_data(data.astype({"int8": np.int8, "float16": np.float16}.get(kind, np.float32)))
            mrc.voxel_size = PIXEL
        raw = (folder / "plain.mrc").read_bytes()
        (folder / "plain.mrc").unlink()
        pack = {"gzip": gzip.compress, "bzip2": bz2.compress}.get(kind, bytes)
        (folder / "a.mrc").write_bytes(pack(raw))

    return write


def hdf(folder: Path) -> None:
    """A stack of EMAN2 behind a list."""
    import h5py

    with h5py.File(folder / "a.hdf", "w") as file:
        group = file.create_group("MDF/images/0")
        group["image"] = np.random.default_rng(3).normal(size=(BOX,) * 3).astype(np.float32)
        group.attrs["EMAN.apix_x"] = PIXEL
    (folder / "a.lst").write_text("#LSX\n# note\n# 8\n0\ta.hdf\t{}\n")


def zarr(folder: Path) -> None:
    """An OME-Zarr of one level."""
    import zarr

    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=3)
    group.create_array(
        "0", data=np.random.default_rng(3).normal(size=(4, BOX, BOX)).astype(np.float32), chunks=(2, 3, 3)
    )
    axes = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [PIXEL] * 3}]
    stated = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [stated]}


ATOM = "ATOM  {:5d}  CA  ALA {}{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00 20.00           C\n"
REMARKS = (
    "REMARK 350 BIOMOLECULE: 1\nREMARK 350 APPLY THE FOLLOWING TO CHAINS: A, B\n"
    "REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000\n"
    "REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000\n"
    "REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000\n"
)
SITES = "".join(ATOM.format(i, "AB"[i % 2], i, 1.5 * i, -2.0 * i, 3.25) for i in range(1, 6))
CIF_LABELS = (
    *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id"),
    *("label_entity_id", "label_seq_id", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy", "B_iso_or_equiv"),
    *("auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num"),
)


def pdb(folder: Path) -> None:
    """A structure of two chains and an assembly."""
    (folder / "a.pdb").write_text(f"HEADER    TEST\n{REMARKS}{SITES}TER\nEND\n")


def packed_pdb(folder: Path) -> None:
    """The same, compressed."""
    (folder / "a.pdb.gz").write_bytes(gzip.compress(f"{REMARKS}{SITES}END\n".encode()))


def cif(folder: Path) -> None:
    """A structure in mmCIF."""
    rows = "".join(f"ATOM {i} C CA . ALA A 1 {i} {1.5 * i} {-2 * i} 3.25 1.00 20.0 {i} A 1\n" for i in range(1, 6))
    (folder / "a.cif").write_text("data_a\nloop_\n" + "".join(f"_atom_site.{label}\n" for label in CIF_LABELS) + rows)


def documented(name: str) -> Callable[[Path], None]:
    """A numbered list of two tomograms with the names of these beside it, and no list of tilts."""

    def write(folder: Path) -> None:
        write_particles(folder / LISTS[name], sample(tomograms=("TS_01", "a b") * 2 + ("TS_01",)), format=name)

    return write


CORPUS: Mapping[str, Callable[[Path], None]] = {
    **{f"list {name}": written(name) for name in LISTS},
    **{f"list {name} named": documented(name) for name in ("stopgap", "av3", "dynamo")},
    "list stacks": stacks,
    "list subtomogram": subtomogram,
    "list m-series": series,
    "list m-species": species,
    "list eman-boxes": boxes,
    "list hdf": hdf,
    "tilts tlt": tlt,
    "tilts mdoc": mdoc,
    "tilts star": tilts_of_relion,
    "tilts wedge list": wedge_list,
    "map float32": image("float32"),
    "map float16": image("float16"),
    "map int8": image("int8"),
    "map gzip": image("gzip"),
    "map bzip2": image("bzip2"),
    "map em": image("em"),
    "map zarr": zarr,
    "structure pdb": pdb,
    "structure pdb.gz": packed_pdb,
    "structure cif": cif,
}


def made(name: str, folder: Path) -> list[Path]:
    """Write the files of an entry into an empty folder, and return those that a mutation may change."""
    CORPUS[name](folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())
