"""Stacks cut from tilt images show what the images hold where the geometry has the particle, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio import jobs
from gonio.cli.app import run
from gonio.io.aligned_series import open_aligned, read_aln, read_xf, xf_series
from gonio.io.blocks import read_star, write_star
from gonio.io.errors import FormatError
from gonio.io.mrc import read_mrc, write_mrc, write_stack
from gonio.io.names import file_stems
from gonio.io.tilt_geometry import write_changed_tomograms, write_xf
from gonio.io.tilt_stacks import ListedSeries, write_tomograms
from gonio.io.tilts import read_tilt_series
from gonio.jobs import RunOptions
from gonio.jobs.extract_stacks import StackCuts, StackExtraction
from gonio.jobs.simulate_stacks import StackOptions
from gonio.particle.pose import Pose
from gonio.particle.tilt_change import TiltChange
from gonio.particle.tilt_series import Optics, TiltSeries
from gonio.workflows.extraction import Cutting, cut_out
from literal_tilts import alike, literal_series

PIXEL, EDGE, BOX = 5.0, 160, 24
SHAPE = (EDGE - 10, EDGE)  # y, x: no square, so that they cannot be exchanged
TILTS = np.array([-40.0, -7.0, 33.0])
CHANGE = TiltChange(
    np.array([[3.0, -5.0], [0.0, 0.0], [7.0, 2.0]]),
    np.array([[0.3, -2.0, 1.0], [0.0, 0.0, 0.0], [0.5, 0.0, -4.0]]),
    np.array([100.0, 0.0, 30.0]),
    np.array([[50.0, 80.0], [0.0, 0.0], [10.0, 0.0]]),
)


def series(path: Path = Path("x.star")) -> TiltSeries:
    """Three tilts that no exchange of signs or axes maps on themselves."""
    angles = np.stack([[0.7, -1.1, 0.4], TILTS, [-6.0, -4.0, -5.0]], axis=1)
    matrices = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return TiltSeries(
        path,
        matrices[:, :2],
        defocus=np.array([[21000.0, 20500.0, 15.0], [22000.0, 22000.0, 0.0], [23000.0, 22900.0, -40.0]]),
        dose=np.array([6.0, 0.0, 3.0]),
        optics=Optics(300.0, 2.7, 0.07),
        beams_xyz=matrices[:, 2],
        defocus_per_depth=-1.0,
        shifts_angstrom=np.array([[11.0, -4.0], [-7.0, 19.0], [2.0, 8.0]]),
    )


def bumps(rng: np.random.Generator, count: int = 60) -> list[tuple[float, ...]]:
    """Centres (pixels), widths and heights of broad Gaussians: an image that is known between its pixels."""
    return [(*rng.uniform(0, [EDGE, EDGE]), rng.uniform(3.5, 6.0), rng.normal()) for _ in range(count)]


def value(image: list[tuple[float, ...]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return sum(h * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / s**2) for cx, cy, s, h in image)


@pytest.fixture
def tilted(tmp_path, rng):
    """A tilt series of images that are known between their pixels, and a list with shifts and orientations."""
    images = [bumps(rng) for _ in TILTS]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    write_stack(tmp_path / "TS_01.mrcs", np.stack([value(one, x, y) for one in images]).astype(np.float32), PIXEL)
    named = [f"{n}@TS_01.mrcs" for n in (1, 2, 3)]
    write_tomograms(tmp_path / "tomograms.star", [ListedSeries("TS_01", series(), named, PIXEL, (EDGE, EDGE, 80))])
    (tmp_path / "picks.star").write_text(
        "data_particles\n\nloop_\n_rlnTomoName\n_rlnCenteredCoordinateXAngst\n_rlnCenteredCoordinateYAngst\n"
        "_rlnCenteredCoordinateZAngst\n_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnOriginZAngst\n_rlnAngleRot\n"
        "_rlnAngleTilt\n_rlnAnglePsi\n_myNote\nTS_01 62.3 -41.9 77.7 -3 4 11 10 20 30 kept\n"
        "TS_01 -88.1 35.2 -50.4 0 0 0 -70 100 5 too\n"
    )
    return tmp_path, images


def place(row: int) -> np.ndarray:
    return np.array([[62.3 + 3, -41.9 - 4, 77.7 - 11], [-88.1, 35.2, -50.4]][row])


@pytest.mark.parametrize(("binning", "box"), [(1, 24), (2, 15), (1, 25)])
def test_stacks_are_the_image_where_the_point_projects(tilted, binning, box):
    folder, images = tilted
    out = folder / "out"
    done = jobs.extract(
        [folder / "tomograms.star"],
        folder / "picks.star",
        output=out,
        box=box,
        binning=binning,
        normalise="none",
        invert=True,
        stacks=StackCuts(),
        threads=1,
    )
    assert done.rows == [0, 1]
    for row in range(2):
        stack = read_mrc(out / "stacks" / "TS_01" / f"{row + 1:06d}.mrcs")
        assert stack.voxel_size_angstrom(axes=2) == pytest.approx(PIXEL * binning)
        for got, image, (matrix, shift) in zip(stack.data, images, literal_series(folder), strict=True):
            at = ((matrix @ place(row))[:2] + shift) / PIXEL + np.array([SHAPE[1] // 2, SHAPE[0] // 2])
            grid = (np.arange(box) - box // 2) * binning
            expected = -value(image, at[0] + grid[None, :], at[1] + grid[:, None])
            assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()
            assert np.sqrt(((got - expected) ** 2).mean()) < 0.005 * expected.std() + 2e-3 * np.abs(expected).max()


def test_what_is_listed_reads_back_as_what_was_cut(tilted):
    folder, _ = tilted
    words = f"extract {folder}/tomograms.star {folder}/picks.star --stacks --box {BOX} --invert -o {folder}/out"
    assert run([*words.split(), "--threads", "1"]) == 0
    table = gonio.read_particles(folder / "out" / "optimisation_set.star")
    np.testing.assert_allclose(table.coordinates_angstrom, [place(0), place(1)], atol=1e-5)
    np.testing.assert_allclose(table.poses.shift_angstrom, 0.0, atol=1e-9)
    listed = gonio.io.read_particles(folder / "out" / "particles.star")
    given = Rotation.from_euler("ZYZ", [[10, 20, 30], [-70, 100, 5]], degrees=True).inv()
    assert (listed.poses.rotation * given.inv()).magnitude().max() < 1e-6
    assert list(table.extras["myNote"]) == ["kept", "too"]
    stack = table.load(0)
    assert not stack.ctf_premultiplied and stack.images.shape == (3, BOX, BOX)
    np.testing.assert_allclose(stack.projections_xyz, series().projections_xyz, atol=1e-7)
    depth = series().depths_angstrom(place(0))
    np.testing.assert_allclose(stack.ctf.defocus_u_angstrom, series().defocus[:, 0] - depth, atol=1e-3)
    # scaled to mean 0 and sd 1 outside of the largest circle
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    outside = np.hypot(x, y) > BOX / 2 - 0.5
    np.testing.assert_allclose(stack.images[:, outside].mean(axis=1), 0.0, atol=1e-4)
    np.testing.assert_allclose(stack.images[:, outside].std(axis=1), 1.0, atol=1e-4)


def test_premultiplied_images_are_the_image_convolved_with_the_transfer_of_their_own_depth(tilted):
    folder, _ = tilted
    out = folder / "out"
    jobs.extract(
        [folder / "tomograms.star"],
        folder / "picks.star",
        output=out,
        box=BOX,
        normalise="none",
        stacks=StackCuts(premultiply=True),
        threads=1,
    )
    table = gonio.read_particles(out / "particles.star")
    whole = read_mrc(folder / "TS_01.mrcs").data
    ky, kx = np.fft.fftfreq(SHAPE[0], PIXEL)[:, None], np.fft.rfftfreq(SHAPE[1], PIXEL)
    frequency = np.stack(np.broadcast_arrays(kx, ky), axis=-1)
    for row in range(2):
        stack = table.load(row)
        assert stack.ctf_premultiplied
        transfer = stack.transfer(frequency.reshape(-1, 2)).reshape(3, SHAPE[0], -1)
        for got, image, seen, (matrix, shift) in zip(
            stack.images, whole, transfer, literal_series(folder), strict=True
        ):
            multiplied = np.fft.irfft2(np.fft.rfft2(image) * seen, s=SHAPE)
            at = ((matrix @ place(row))[:2] + shift) / PIXEL + np.array([SHAPE[1] // 2, SHAPE[0] // 2])
            expected = cut_out(
                lambda low, high, m=multiplied: m[low[0] : high[0], low[1] : high[1]].astype(np.float32),
                SHAPE,
                at[::-1],
                Cutting(BOX),
            ).data
            a, b = got - got.mean(), expected - expected.mean()  # beyond the padding lies the slowest part
            assert np.sqrt(((a - b) ** 2).mean()) < 0.1 * b.std()


def test_images_that_a_box_sticks_out_of_are_left_out_and_said(tilted, capsys):
    folder, _ = tilted
    text = (folder / "picks.star").read_text().replace("62.3", "395.3")
    (folder / "picks.star").write_text(text)
    words = f"extract {folder}/tomograms.star {folder}/picks.star --stacks --box {BOX} --threads 1".split()
    assert run([*words, "-o", f"{folder}/all"]) == 0
    assert "not shown by every image: 'TS_01/1'" in capsys.readouterr().out
    block = read_star(folder / "all" / "particles.star").find("particles")
    frames = block.columns["rlnTomoVisibleFrames"]
    shown = [int(one) for one in frames[0].strip("[]").split(",")]
    positions = [(m @ (place(0) + np.array([333, 0, 0])))[:2] + s for m, s in literal_series(folder)]
    assert shown == [int(abs(x / PIXEL) + BOX / 2 < EDGE / 2) for x, _ in positions] and 0 < sum(shown) < 3
    stack = gonio.read_particles(folder / "all" / "particles.star").load(0)
    assert len(stack.images) == sum(shown)
    assert run([*words, "--edge", "skip", "-o", f"{folder}/skip"]) == 0
    assert len(gonio.read_particles(folder / "skip" / "particles.star")) == 1
    assert run([*words, "--edge", "refuse", "-o", f"{folder}/refuse"]) == 2
    assert "stick out of images" in capsys.readouterr().err and not (folder / "refuse").exists()


def test_stacks_from_simulated_images_are_the_stacks_that_were_simulated(tmp_path):
    options = StackOptions(2, tilt_step_deg=15.0, field_angstrom=900.0, thickness_angstrom=700.0, tilt_images=True)
    jobs.simulate(
        tmp_path / "sim",
        phantom="sharp",
        count=2,
        box=32,
        voxel_size_angstrom=8.0,
        snr=np.inf,
        seed=2,
        stacks=options,
        run=RunOptions(threads=1),
    )
    jobs.extract(
        [tmp_path / "sim" / "tomograms.star"],
        tmp_path / "sim" / "particles.star",
        output=tmp_path / "cut",
        box=32,
        invert=True,
        normalise="none",
        stacks=StackCuts(),
        threads=1,
    )
    made, cut = (gonio.read_particles(tmp_path / name / "particles.star") for name in ("sim", "cut"))
    for row in range(2):
        one, other = made.load(row), cut.load(row)
        assert alike(other.images, one.images) < 5e-3
        np.testing.assert_allclose(other.images, one.images, atol=0.02 * np.abs(one.images).max())
        np.testing.assert_allclose(other.ctf.defocus_u_angstrom, one.ctf.defocus_u_angstrom, atol=1e-3)
        np.testing.assert_allclose(other.projections_xyz, one.projections_xyz, atol=1e-7)


def test_premultiplied_stacks_are_multiplied_anew_for_another_defocus_and_strength(tilted):
    folder, _ = tilted
    strength = np.array([0.8, 1.0, 1.3])
    refocused = TiltChange(np.zeros((3, 2)), np.zeros((3, 3)), np.array([2500.0, 0.0, -4000.0]), scale=strength)
    target = folder / "new" / "tomograms.star"
    target.parent.mkdir()
    write_changed_tomograms(target, folder / "tomograms.star", {"TS_01": refocused})
    jobs.extract(
        [folder / "tomograms.star"],
        folder / "picks.star",
        output=folder / "out",
        box=BOX,
        normalise="none",
        stacks=StackCuts(premultiply=True),
        threads=1,
    )
    old = gonio.read_particles(folder / "out" / "particles.star").load(0)
    new = gonio.read_particles(folder / "out" / "particles.star", tomograms_path=target).load(0)
    np.testing.assert_allclose(new.scale, (1.0 if old.scale is None else old.scale) * strength)
    ky, kx = np.fft.fftfreq(BOX, PIXEL)[:, None], np.fft.rfftfreq(BOX, PIXEL)
    frequency = np.stack(np.broadcast_arrays(kx, ky), axis=-1)
    before, after = (one.transfer(frequency.reshape(-1, 2)).reshape(3, BOX, -1) for one in (old, new))
    assert (before[[0, 2]] * after[[0, 2]] < 0).any(axis=(1, 2)).all()  # else as they were would do
    np.testing.assert_allclose(new.ctf.defocus_u_angstrom - old.ctf.defocus_u_angstrom, [2500.0, 0.0, -4000.0], atol=1)
    shown = np.abs(before) > 0.02  # elsewhere nothing is known of the image
    spectra = np.fft.rfft2(old.images)
    expected = np.fft.irfft2(np.where(shown, spectra / np.where(shown, before, 1.0) * after, spectra), s=(BOX, BOX))
    np.testing.assert_allclose(new.images, expected, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(new.images[1], old.images[1], atol=1e-5 * np.abs(expected).max())


# IMOD and AreTomo


def imod_raw(index_xyz: np.ndarray, tilt: float, row: np.ndarray, shape_yx, size_xyz) -> np.ndarray:
    """Where a voxel of a tomogram lies in the raw image, by IMOD's own words, indices from 0."""
    centre_ali = (np.array(shape_yx[::-1]) - 1) / 2
    x, y, z = index_xyz - (np.array(size_xyz) - 1) / 2
    aligned = np.array([x * np.cos(np.radians(tilt)) + z * np.sin(np.radians(tilt)), y])  # from the centre
    a, d = row[:4].reshape(2, 2), row[4:]
    return np.linalg.solve(a, aligned - d) + centre_ali  # of X' = A (X - c) + D + c


XF = np.array(
    [
        [0.0871557, 0.9961947, -0.9961947, 0.0871557, 12.5, -3.25],
        [0.1045285, 0.9945219, -0.9945219, 0.1045285, -8.0, 4.0],
        [0.0697565, 0.9975641, -0.9975641, 0.0697565, 1.5, 30.0],
    ]
)


@pytest.fixture
def imod(tmp_path, rng):
    folder = tmp_path / "imod"
    folder.mkdir()
    write_stack(folder / "TS_01.st", rng.standard_normal((3, *SHAPE)).astype(np.float32), PIXEL)
    (folder / "TS_01.xf").write_text("\n".join(" ".join(f"{v:.7f}" for v in row) for row in XF) + "\n")
    (folder / "TS_01.tlt").write_text("\n".join(map(str, TILTS)) + "\n")
    return folder


def test_imods_transforms_project_a_voxel_as_imod_does(imod):
    one = open_aligned([imod / "TS_01.st"], ["TS_01"], size_px=(EDGE, SHAPE[0], 60))["TS_01"]
    size = np.array([EDGE, SHAPE[0], 60])
    for index in ([80.0, 75.0, 30.0], [101.0, 33.0, 47.5]):
        place_angstrom = (np.array(index) - size / 2) * PIXEL
        for tilt in range(3):
            expected = imod_raw(np.array(index), TILTS[tilt], XF[tilt], SHAPE, size)
            np.testing.assert_allclose(one.position_yx(place_angstrom)[tilt][::-1], expected, atol=2e-4)


def test_aretomos_alignment_puts_the_axis_and_the_centre_where_it_says(tmp_path):
    (tmp_path / "TS_01.aln").write_text(
        "# AreTomo Alignment / Priims bprmMn\n# RawSize = 160 150 3\n"
        "# SEC  ROT  GMAG  TX  TY  SMEAN  SFIT  SCALE  BASE  TILT\n"
        "  0  -84.5  1.0  12.25  -3.5  1.0 1.0 1.0 0.0  -40.0\n  2  -84.5  1.0  -4.0  6.0  1.0 1.0 1.0 0.0  33.0\n"
        "# Local Alignment\n 0 1 2 3\n"
    )
    with pytest.warns(RuntimeWarning, match="the local alignment is left out"):
        sections, matrices, moves, tilts = read_aln(tmp_path / "TS_01.aln")
    assert sections.tolist() == [0, 2] and tilts.tolist() == [-40.0, 33.0]
    made = xf_series(tmp_path, matrices, moves, tilts, shape_yx=(151, 161), pixel_size=1.0)
    # Along the axis (y of the specimen) the image moves by ROT from y, counter-clockwise.
    along = made.projections_xyz @ [0.0, 1.0, 0.0]
    angle = np.radians(-84.5)
    np.testing.assert_allclose(along, np.tile([-np.sin(angle), np.cos(angle)], (2, 1)), atol=1e-6)
    half = made.projections_xyz @ np.full(3, 0.5)  # from the voxel n / 2 to the tomogram's centre
    np.testing.assert_allclose(made.shifts_angstrom - half, [[12.25, -3.5], [-4.0, 6.0]], atol=1e-6)


def test_imods_files_are_written_as_they_are_read(imod, tmp_path):
    one = open_aligned([imod / "TS_01.st"], ["TS_01"])["TS_01"]
    files = write_xf(tmp_path / "new" / "TS_01", one.series, shape_yx=SHAPE, pixel_size=PIXEL)
    matrices, moves = read_xf(files[0])
    np.testing.assert_allclose(np.hstack([matrices.reshape(3, 4), moves]), XF, atol=2e-3)
    np.testing.assert_allclose(np.loadtxt(files[1]), TILTS)
    with pytest.raises(FormatError, match="exists; give another folder"):
        write_xf(tmp_path / "new" / "TS_01", one.series, shape_yx=SHAPE, pixel_size=PIXEL)
    axes = np.append(one.series.projections_xyz @ [0.0, 1.0, 0.0], np.zeros((3, 1)), axis=1)  # in the images
    turned = np.array([0.8, -1.3, 2.1])[:, None] * axes + np.array([1.7, 0.4, -2.2])[:, None] * [0.0, 0.0, 1.0]
    changed = TiltChange(CHANGE.shift_angstrom, np.zeros((3, 3)), np.zeros(3)).applied(one.series)
    for rotation in (np.array([[0.8], [-1.3], [2.1]]) * axes, (turned * [0, 0, 1])):
        changed = TiltChange(np.zeros((3, 2)), rotation, np.zeros(3)).applied(changed)
    new = write_xf(tmp_path / "changed" / "TS_01", changed, shape_yx=SHAPE, pixel_size=PIXEL)
    matrices, moves = read_xf(new[0])
    again = xf_series(new[0], matrices, moves * PIXEL, np.loadtxt(new[1]), shape_yx=SHAPE, pixel_size=PIXEL)
    for point in ([0.0, 0.0, 0.0], [90.0, -140.0, 110.0]):
        np.testing.assert_allclose(again.positions_angstrom(point), changed.positions_angstrom(point), atol=5e-3)
    with pytest.warns(RuntimeWarning, match="rotations across the tilt axis"):
        write_xf(tmp_path / "pitched" / "TS_01", CHANGE.applied(one.series), shape_yx=SHAPE, pixel_size=PIXEL)
    deformed = replace(one.series, deformation=np.full((3, 2, 2), 0.001))
    with pytest.warns(RuntimeWarning, match="the deformation of the field has no place in IMOD's files"):
        write_xf(tmp_path / "deformed" / "TS_01", deformed, shape_yx=SHAPE, pixel_size=PIXEL)


def test_stacks_of_imod_are_cut_with_the_dose_of_their_mdoc(imod, tmp_path):
    (imod / "TS_01.mdoc").write_text(
        "".join(
            f"[ZValue = {n}]\nTiltAngle = {t}\nPriorRecordDose = {d}\n\n"
            for n, (t, d) in enumerate(zip(TILTS, (6.0, 0.0, 3.0), strict=True))
        )
    )
    (imod / "picks.csv").write_text("tomogram,x,y,z\nTS_01,80.5,70.25,31\n")
    listed = tmp_path / "picks.star"
    listed.write_text(
        "data_particles\n\nloop_\n_rlnTomoName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n"
        "TS_01 80.5 70.25 31\n"
    )
    words = f"extract {imod} {listed} --stacks --box 16 --pixel-size {PIXEL} --voltage 200 --threads 1".split()
    assert run([*words, "-o", f"{tmp_path}/none"]) == 2  # the size of the tomogram is not known
    assert run([*words, "--tomogram-size", "160", "150", "60", "-o", f"{tmp_path}/out"]) == 0
    table = gonio.read_particles(tmp_path / "out" / "particles.star")
    stack = table.load(0)
    np.testing.assert_allclose(stack.dose, [6.0, 0.0, 3.0])
    np.testing.assert_allclose(table.coordinates_angstrom, [[2.5, -23.75, 5.0]], atol=1e-6)
    assert read_star(tmp_path / "out" / "tomograms.star").find("global").columns["rlnVoltage"][0] == "200"


# Written back


def as_matrices(folder: Path, size_px=(EDGE, EDGE, 80)) -> Path:
    """The same series as RELION 4 and WarpTools state it: 4 x 4 matrices from corner to corner."""
    star = read_star(folder / "tilt_series" / "TS_01.star").blocks[0]
    rows = []
    for index, (matrix, shift) in enumerate(literal_series(folder)):
        offset = -matrix @ (np.array(size_px) / 2) + [*(shift / PIXEL), 0] + [SHAPE[1] // 2, SHAPE[0] // 2, 0]
        four = ["[" + ",".join(f"{v:.12g}" for v in [*matrix[i], offset[i]]) + "]" for i in range(3)]
        rows.append(
            " ".join([*four, "[0,0,0,1]", star.columns["rlnDefocusU"][index], star.columns["rlnDefocusV"][index],
                      star.columns["rlnDefocusAngle"][index], f"{index + 1}@TS_01.mrcs", "note"])
        )  # fmt: skip
    labels = [*(f"rlnTomoProj{a}" for a in "XYZW"), "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]
    block = "\n".join(f"_{one}" for one in [*labels, "rlnMicrographName", "myNote"])
    path = folder / "matrices" / "tomograms.star"
    path.parent.mkdir()
    path.write_text(
        "data_global\n\nloop_\n_rlnTomoName\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnTomoHand\n"
        "_rlnTomoTiltSeriesPixelSize\n_rlnTomoSizeX\n_rlnTomoSizeY\n_rlnTomoSizeZ\n"
        f"TS_01 300 2.7 0.07 -1 {PIXEL} {EDGE} {EDGE} 80\n\ndata_TS_01\n\nloop_\n{block}\n" + "\n".join(rows) + "\n"
    )
    return path


def shown_px(path: Path, place_angstrom: np.ndarray, matrices: bool) -> np.ndarray:
    """Where each image shows a place, in pixels from the first, by the files alone."""
    if not matrices:
        return np.array(
            [
                ((m @ place_angstrom)[:2] + s) / PIXEL + [SHAPE[1] // 2, SHAPE[0] // 2]
                for m, s in literal_series(path.parent)
            ]
        )
    block = read_star(path).find("TS_01")
    corner = np.append(place_angstrom / PIXEL + np.array([EDGE, EDGE, 80]) / 2, 1.0)
    return np.array(
        [
            [np.array(block.columns[f"rlnTomoProj{a}"][i].strip("[]").split(","), float) @ corner for a in "XY"]
            for i in range(3)
        ]
    )


def test_the_geometry_of_a_stack_is_known_without_reading_its_images(tilted, monkeypatch):
    folder, _ = tilted
    jobs.extract(
        [folder / "tomograms.star"], folder / "picks.star", output=folder / "out", box=BOX, normalise="none",
        stacks=StackCuts(), threads=1,
    )  # fmt: skip
    star = read_star(folder / "out" / "particles.star")
    particles = star.find("particles")
    hidden = particles.with_columns({"rlnTomoVisibleFrames": ("[1,0,1]",) * len(particles)})
    write_star(folder / "out" / "hidden.star", replace(star, blocks=tuple(
        hidden if one is particles else one for one in star.blocks
    )))  # fmt: skip
    table = gonio.read_particles(folder / "out" / "hidden.star")
    monkeypatch.setattr("gonio.io.source.read_listed", None)
    assert table.stack_geometry(0).tilts.tolist() == [0, 1, 2]  # the stack holds all


@pytest.mark.parametrize("matrices", [False, True])
def test_a_changed_geometry_projects_points_as_the_change_states(tilted, matrices):
    folder, _ = tilted
    source = as_matrices(folder) if matrices else folder / "tomograms.star"
    target = folder / "new" / "tomograms.star"
    target.parent.mkdir()
    files = write_changed_tomograms(target, source, {"TS_01": CHANGE})
    assert files[0] == target and all(one.is_file() for one in files)
    point = np.array([210.0, -130.0, 95.0])
    before, after = shown_px(source, point, matrices), shown_px(target, point, matrices)
    for tilt, (matrix, _) in enumerate(literal_series(folder)):
        turned = Rotation.from_rotvec(np.radians(CHANGE.rotation_deg[tilt])).apply(matrix @ point)
        expected = (turned - matrix @ point)[:2] + CHANGE.shift_angstrom[tilt]
        np.testing.assert_allclose((after - before)[tilt] * PIXEL, expected, atol=2e-4)
    read = read_tilt_series(read_star(target), "TS_01")
    wanted = CHANGE.applied(read_tilt_series(read_star(source), "TS_01"))
    np.testing.assert_allclose(read.projections_xyz, wanted.projections_xyz, atol=1e-7)
    np.testing.assert_allclose(read.defocus, wanted.defocus, atol=1e-5)
    np.testing.assert_allclose(read.offsets_angstrom(point), wanted.offsets_angstrom(point), atol=1e-4)
    old = read_star(source).find("TS_01") or read_star(folder / "tilt_series" / "TS_01.star").blocks[0]
    new = read_star(target).find("TS_01") or read_star(folder / "new" / "tilt_series" / "TS_01.star").blocks[0]
    for label, values in old.columns.items():
        assert new.columns[label][1] == values[1] or label == "rlnMicrographName"  # nothing changes at the second tilt
        if "Proj" not in label and label.startswith("rlnTomoNominal"):
            assert list(new.columns[label]) == list(values)


def test_no_change_writes_every_token_as_it_was(tilted):
    folder, _ = tilted
    target = folder / "new" / "tomograms.star"
    target.parent.mkdir()
    write_changed_tomograms(target, folder / "tomograms.star", {"TS_01": TiltChange.none(3)})
    old = read_star(folder / "tilt_series" / "TS_01.star").blocks[0].columns
    new = read_star(target.parent / "tilt_series" / "TS_01.star").blocks[0].columns
    for label, values in old.items():
        moved = [one.replace("@", "@../") for one in values] if label == "rlnMicrographName" else list(values)
        assert list(new[label]) == moved
    with pytest.raises(FormatError, match="is what was read"):
        write_changed_tomograms(target, target, {})
    with pytest.raises(FormatError, match="has no tomogram 'TS_02'"):
        write_changed_tomograms(folder / "other.star", folder / "tomograms.star", {"TS_02": CHANGE})
    with pytest.raises(ValueError, match="has 3 tilts"):
        write_changed_tomograms(folder / "other.star", folder / "tomograms.star", {"TS_01": TiltChange.none(4)})
    assert not (folder / "other.star").exists()


def test_stacks_cut_again_no_longer_know_of_the_older_geometry(tilted):
    folder, _ = tilted
    target = folder / "new" / "tomograms.star"
    target.parent.mkdir()
    write_changed_tomograms(target, folder / "tomograms.star", {"TS_01": CHANGE})
    jobs.extract(
        [target], folder / "picks.star", output=folder / "out", box=BOX, normalise="none", stacks=StackCuts(), threads=1
    )
    again = gonio.read_particles(folder / "out" / "particles.star")
    jobs.extract(
        [folder / "tomograms.star"], folder / "picks.star", output=folder / "old", box=BOX, normalise="none",
        stacks=StackCuts(), threads=1,
    )  # fmt: skip
    moved = gonio.read_particles(folder / "old" / "particles.star", tomograms_path=target)
    inner = slice(5, -5)  # beyond them what is moved comes round the box
    for row in range(2):
        one, other = again.load(row), moved.load(row)
        assert read_tilt_series(read_star(folder / "out" / "tomograms.star"), "TS_01").cut_projections_xyz is None
        np.testing.assert_allclose(one.projections_xyz, other.projections_xyz, atol=1e-7)
        difference = (one.images - other.images)[:, inner, inner]
        assert np.sqrt((difference**2).mean()) < 0.05 * one.images.std()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--tilt-range -60 60", "--tilt-range has no meaning for --stacks"),
        ("--tilt-axis 85", "--tilt-axis has no meaning without --tilt-range"),
        ("--premultiply", "--premultiply"),
    ],
)
def test_options_that_have_no_meaning_are_refused(tilted, capsys, words, told):
    folder, _ = tilted
    stacks = "" if words == "--premultiply" else "--stacks"
    line = f"extract {folder}/tomograms.star {folder}/picks.star {stacks} --box {BOX} -o {folder}/out {words}"
    assert run(line.split()) == 2
    assert told in capsys.readouterr().err and not (folder / "out").exists()


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (("TS_01.mrcs", "1@TS_01.mrcs", "9@TS_01.mrcs"), "of 3 images"),
        (("TS_01.mrcs", "1@TS_01.mrcs", "1@TS_09.mrcs"), "is not there"),
        (("tilt", "rlnTomoXShiftAngst", "myShift"), "does not state the shifts"),
    ],
)
def test_broken_series_are_one_error(tilted, capsys, edit, told):
    folder, _ = tilted
    path = folder / "tilt_series" / "TS_01.star"
    path.write_text(path.read_text().replace(*edit[1:]))
    line = f"extract {folder}/tomograms.star {folder}/picks.star --stacks --box {BOX} -o {folder}/out"
    assert run(line.split()) == 2
    error = capsys.readouterr().err
    assert told in error and "TS_01.star" in error and not (folder / "out").exists()


def test_what_tomograms_star_lacks_is_an_error_before_anything_is_cut(tilted, monkeypatch):
    folder, _ = tilted
    named = [f"{n}@TS_01.mrcs" for n in (1, 2, 3)]
    both = [ListedSeries(name, series(), named, PIXEL, (EDGE, EDGE, 80)) for name in ("TS_01", "TS_02")]
    write_tomograms(folder / "tomograms.star", both)
    (folder / "tilt_series" / "TS_02.star").unlink()
    monkeypatch.setattr(StackExtraction, "cut", lambda *_: pytest.fail("was cut"))
    with pytest.raises(FormatError, match=r"names tilt_series/TS_02.star as the tilt series of 'TS_02', which is not"):
        extracted(folder)
    (folder / "picks.star").write_text((folder / "picks.star").read_text().replace("TS_01 62", "TS_09 62"))
    with pytest.raises(FormatError, match="has no tomogram 'TS_09'"):
        extracted(folder)


def extracted(folder: Path, **options):
    """Cut stacks at the picks of a folder."""
    stacks = options.pop("stacks", StackCuts())
    given = {"output": folder / "out", "box": BOX, "threads": 1, "stacks": stacks, **options}
    return jobs.extract([folder / "tomograms.star"], folder / "picks.star", **given)


def test_names_of_tomograms_with_folders_are_files_in_one_folder(imod, tmp_path):
    for ending in ("st", "xf", "tlt"):
        (imod / f"TS_02.{ending}").write_bytes((imod / f"TS_01.{ending}").read_bytes())
    labels = "_rlnTomoName\n_rlnCenteredCoordinateXAngst\n_rlnCenteredCoordinateYAngst\n_rlnCenteredCoordinateZAngst\n"
    listed = tmp_path / "picks.star"
    listed.write_text(f"data_particles\n\nloop_\n{labels}rec/TS_01.mrc 1 2 3\nrec/TS_02.mrc 4 5 6\n")
    jobs.extract([imod], listed, output=tmp_path / "out", box=BOX, stacks=StackCuts(), threads=1)
    table = gonio.read_particles(tmp_path / "out" / "particles.star")
    assert list(table.tomograms) == ["rec/TS_01.mrc", "rec/TS_02.mrc"] and table.load(1).images.shape == (3, BOX, BOX)
    assert sorted(path.name for path in (tmp_path / "out" / "tilt_series").iterdir()) == ["TS_01.star", "TS_02.star"]


def test_files_of_tomograms_of_one_name_in_two_folders_differ():
    stems = file_stems(["a/TS_01.mrc", "b/TS_01.mrc", "TS 3", "a/TS_01.mrc", ".."])
    assert stems == {"a/TS_01.mrc": "TS_01", "b/TS_01.mrc": "TS_01_2", "TS 3": "TS_3", "..": "tomogram"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"voxel_size_angstrom": 4.0}, "states pixels of 5 angstrom for 'TS_01', --voxel-size 4; leave out"),
        ({"stacks": StackCuts(tomogram_size=(9, 9, 9))}, "states the size of 'TS_01', 160 x 160 x 80 pixels"),
        (
            {"stacks": StackCuts(voltage_kv=200.0)},
            "voltage_kv has no effect, as .*tomograms.star states the microscope",
        ),
    ],
)
def test_what_contradicts_tomograms_star_is_refused(tilted, options, told):
    folder, _ = tilted
    with pytest.raises(ValueError, match=told):
        extracted(folder, **options)
    assert not (folder / "out").exists()


def test_the_size_of_a_tomogram_may_be_given_where_tomograms_star_does_not_set_it(tilted):
    folder, _ = tilted
    named = [f"{n}@TS_01.mrcs" for n in (1, 2, 3)]
    write_tomograms(folder / "tomograms.star", [ListedSeries("TS_01", series(), named, PIXEL, None)])
    labels = "_rlnTomoName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n_rlnTomoTiltSeriesPixelSize\n"
    (folder / "picks.star").write_text(f"data_particles\n\nloop_\n{labels}TS_01 90 75 50 {PIXEL}\n")
    with pytest.raises(FormatError, match="pass --tomogram-size X Y Z"):
        extracted(folder)
    extracted(folder, voxel_size_angstrom=PIXEL, stacks=StackCuts(tomogram_size=(EDGE, EDGE, 80)))
    places = gonio.read_particles(folder / "out" / "particles.star").coordinates_angstrom
    np.testing.assert_allclose(places, [np.array([90 - 80, 75 - 80, 50 - 40]) * PIXEL])


@pytest.mark.parametrize("kind", ["stacks", "subtomograms"])
def test_particles_cut_again_in_finer_voxels_are_where_the_refinement_moved_them(tilted, rng, kind):
    """From bin 4 to 2 to 1: each refined list is cut where its shifts lead, and begins again at shifts of 0."""
    folder, _ = tilted
    if kind == "subtomograms":
        write_mrc(folder / "TS_01.rec", rng.standard_normal((80, EDGE, EDGE)).astype(np.float32), PIXEL)
    source = folder / ("TS_01.rec" if kind == "subtomograms" else "tomograms.star")
    stacks = None if kind == "subtomograms" else StackCuts()
    listed, places = folder / "picks.star", np.array([place(0), place(1)])
    for binning in (4, 2, 1):
        out = folder / f"bin{binning}"
        options = {"box": 48 // binning, "binning": binning, "stacks": stacks, "threads": 1}
        jobs.extract([source], listed, output=out, **options)
        read = gonio.read_particles if stacks else gonio.io.read_particles
        table = read(out / "particles.star")
        np.testing.assert_allclose(table.poses.shift_angstrom, 0.0, atol=1e-9)
        centre = 0.0 if table.coordinates_from == "centre" else np.array([EDGE, EDGE, 80]) / 2 * PIXEL
        np.testing.assert_allclose(table.coordinates_angstrom - centre, places, atol=1e-5 * 4**2)
        pose = Pose.random(2, rng=rng, max_shift_angstrom=6.0)  # what a refinement finds
        refined = table.with_poses(pose)
        listed, places = folder / f"refined{binning}.star", refined.places_angstrom - centre
        gonio.write_particles(listed, refined, with_optimisation_set=False)
        again = gonio.io.read_particles(listed)
        assert again.tomogram_poses.rotation.approx_equal(refined.tomogram_poses.rotation, atol=1e-6).all()
    final = places - refined.tomogram_poses.shift_angstrom
    direct = folder / "direct.star"
    rows = "\n".join("TS_01 " + " ".join(f"{value:.6f}" for value in row) for row in final)
    labels = "".join(f"_rlnCenteredCoordinate{axis}Angst\n" for axis in "XYZ")
    direct.write_text(f"data_particles\n\nloop_\n_rlnTomoName\n{labels}{rows}\n")
    jobs.extract([source], direct, output=folder / "direct", **options)
    for row in range(2):
        name = f"{'stacks' if stacks else 'subtomograms'}/TS_01/{row + 1:06d}.mrc{'s' if stacks else ''}"
        one, other = (read_mrc(folder / at / name).data for at in ("bin1", "direct"))
        np.testing.assert_allclose(one, other, atol=1e-3)
