"""Simulated tilt stacks show what their files say: projections, places, depths, errors, against literal sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio import jobs
from gonio.io.blocks import read_star
from gonio.io.mrc import read_mrc
from gonio.io.source import ReadOptions
from gonio.io.star import read_particles
from gonio.jobs.running import RunOptions
from gonio.jobs.simulate_stacks import StackOptions
from gonio.particle.arguments import ArgumentError
from gonio.particle.pose import Pose
from gonio.particle.tilt_series import TiltSeries
from gonio.simulate import PHANTOM_NAMES, Imaging, Phantom, Structure, simulate_subtomogram
from gonio.simulate.microscope import back_project
from gonio.simulate.reconstruction import reconstructed
from gonio.simulate.slices import Slices
from gonio.simulate.specimen import Acquisition, GeometryErrors, TrueSeries, scattered_places
from literal_tilts import alike, literal_series

BOX, PIXEL = 32, 8.0
FIELD = 1200.0
GEOMETRY = {"shift_error_angstrom": 6.0, "tilt_error_deg": 1.0, "axis_error_deg": 2.0, "pitch_error_deg": 0.7}
ERRORS = {**GEOMETRY, "defocus_error_angstrom": 900.0, "astigmatism_error_angstrom": 400.0}


def made(folder: Path, *, ctf: str = "none", snr: float = np.inf, count: int = 3, **options) -> Path:
    """Simulate particles of ``sharp`` as stacks."""
    given = {"tilt_step_deg": 20.0, "dose": 0.0, "field_angstrom": FIELD, "thickness_angstrom": 900.0, **options}
    jobs.simulate(
        folder,
        phantom="sharp",
        count=count,
        box=BOX,
        voxel_size_angstrom=PIXEL,
        snr=snr,
        ctf=ctf,
        seed=5,
        stacks=StackOptions(**given),
        run=RunOptions(threads=1),
    )
    return folder


def sharp() -> Phantom:
    return Phantom.named("sharp", box=BOX, voxel_size_angstrom=PIXEL)


def literal_image(table: gonio.ParticleTable, matrix: np.ndarray, shift: np.ndarray, edge: int) -> np.ndarray:
    """The sum over all Gaussians of all particles of one whole image, whose centre pixel is edge // 2."""
    phantom, image = sharp(), np.zeros((edge, edge))
    grid = (np.arange(edge) - edge // 2) * PIXEL
    for particle in range(len(table)):
        turn = table.poses.rotation[particle].as_matrix()
        place = table.coordinates_angstrom[particle] + table.poses.shift_angstrom[particle]
        for mass, centre, covariance in zip(
            phantom.masses, phantom.centres_xyz_angstrom, phantom.covariances_angstrom2, strict=True
        ):
            at = (matrix @ (place + turn @ centre))[:2] + shift
            spread = (matrix @ turn @ covariance @ turn.T @ matrix.T)[:2, :2]
            dx, dy = grid[None, :] - at[0], grid[:, None] - at[1]
            (a, b), (_, d) = np.linalg.inv(spread)
            height = mass / (2.0 * np.pi * np.sqrt(np.linalg.det(spread)))
            image += height * np.exp(-0.5 * (a * dx**2 + 2.0 * b * dx * dy + d * dy**2))
    return image


@pytest.mark.parametrize("name", PHANTOM_NAMES)
@pytest.mark.parametrize("edge", [48, 64])
def test_slices_are_the_exact_projections_of_gaussians(name, edge, rng):
    density = Phantom.named(name, box=BOX, voxel_size_angstrom=PIXEL)
    poses = Pose.random(4, rng=rng, max_shift_angstrom=25.0)
    slices = Slices.of(density, edge=edge, pixel_size_angstrom=PIXEL)
    exact = density.projections(poses, shape_yx=(edge, edge), voxel_size_angstrom=PIXEL)
    made_images = slices.images(slices.spectra(poses.matrix), poses.shift_angstrom[:, :2] / PIXEL + edge // 2)
    assert np.sqrt(((made_images - exact) ** 2).mean() / (exact**2).mean()) < 6e-4


def test_slices_are_the_exact_projections_of_atoms(rng):
    atoms = rng.normal(0.0, 25.0, (300, 3)) * [1.0, 1.4, 0.7]
    density = Structure(rng.uniform(1.0, 8.0, 300), atoms, 8.0)
    poses = Pose.random(3, rng=rng, max_shift_angstrom=10.0)
    slices = Slices.of(density, edge=80, pixel_size_angstrom=4.0)
    spectra = np.fft.rfft2(density.projections(poses, shape_yx=(80, 80), voxel_size_angstrom=4.0))
    spectra[:, 40], spectra[:, :, 40] = 0.0, 0.0  # the Nyquist frequency has no partner
    exact = np.fft.irfft2(spectra, s=(80, 80))
    made_images = slices.images(slices.spectra(poses.matrix), poses.shift_angstrom[:, :2] / 4.0 + 40)
    assert np.sqrt(((made_images - exact) ** 2).mean() / (exact**2).mean()) < 3e-3  # 1.9e-3 on a ribosome


def test_whole_images_show_every_particle_where_the_true_geometry_has_it(tmp_path):
    folder = made(tmp_path / "sim", tilt_images=True, **GEOMETRY)
    table = gonio.read_particles(folder / "truth.star")
    images = read_mrc(folder / "tilt_images" / "TS_01.mrcs").data
    series = literal_series(folder / "truth")
    assert len(images) == len(series) == 7
    for image, (matrix, shift) in zip(images, series, strict=True):
        expected = literal_image(table, matrix, shift, len(image))
        assert alike(-image, expected) < 2e-3  # dark particles
    assert alike(-images[1], literal_image(table, *literal_series(folder)[1], len(images[1]))) > 0.1


def test_stacks_are_cut_where_the_nominal_geometry_has_the_list(tmp_path):
    folder = made(tmp_path / "sim", **GEOMETRY)
    table = gonio.read_particles(folder / "truth.star")
    for particle in range(len(table)):
        images = read_mrc(folder / "stacks" / "TS_01" / f"{particle + 1:06d}.mrcs").data
        alone, listed = table[[particle]], table.coordinates_angstrom[particle]
        for image, true, nominal in zip(images, literal_series(folder / "truth"), literal_series(folder), strict=True):
            centre = (nominal[0] @ listed)[:2] + nominal[1]
            assert alike(image, literal_image(alone, true[0], true[1] - centre, BOX)) < 3e-3


def test_the_same_stacks_read_with_the_true_geometry_show_the_particle_at_its_pose(tmp_path):
    folder = made(tmp_path / "sim", **GEOMETRY)
    table = gonio.read_particles(folder / "truth.star", tomograms_path=folder / "truth" / "tomograms.star")
    as_listed = gonio.read_particles(folder / "truth.star")
    for particle in range(len(table)):
        stack, nominal, pose = table.load(particle), as_listed.load(particle), table.poses[particle]
        true = Rotation.from_matrix(np.stack([m for m, _ in literal_series(folder / "truth")]))
        np.testing.assert_allclose(stack.projections_xyz, true.as_matrix()[:, :2], atol=1e-6)
        exact = sharp().projections(
            Pose(true, np.zeros((len(true), 3))) @ pose, shape_yx=(BOX, BOX), voxel_size_angstrom=PIXEL
        )
        assert alike(stack.images, exact) < 0.02  # edges come round the box
        assert alike(nominal.images, exact) > 0.2


def test_images_have_the_transfer_that_the_true_series_states(tmp_path):
    folder, wide = made(tmp_path / "sim", ctf="whole", **{**ERRORS, "dose": 3.0, "ice_loss": True}), 3 * BOX
    true = gonio.read_particles(folder / "truth.star", tomograms_path=folder / "truth" / "tomograms.star")
    nominal = gonio.read_particles(folder / "truth.star")
    ky, kx = np.fft.fftfreq(wide, PIXEL)[:, None], np.fft.rfftfreq(wide, PIXEL)
    frequency = np.stack(np.broadcast_arrays(kx, ky), axis=-1).reshape(-1, 2)
    inner = slice(BOX, 2 * BOX)
    for particle in range(2):
        images = read_mrc(folder / "stacks" / "TS_01" / f"{particle + 1:06d}.mrcs").data
        listed, alone = true.coordinates_angstrom[particle], true[[particle]]
        fields = np.stack(
            [
                literal_image(alone, m, shift - (m0 @ listed)[:2] - shift0, wide)
                for (m, shift), (m0, shift0) in zip(
                    literal_series(folder / "truth"), literal_series(folder), strict=True
                )
            ]
        )
        differences = []
        for table in (true, nominal):
            transfer = table.load(particle).transfer(frequency).reshape(len(images), wide, -1)
            expected = np.fft.irfft2(np.fft.rfft2(fields) * transfer, s=(wide, wide))[:, inner, inner]
            differences.append(alike(images, expected))
        assert differences[0] < 5e-3 and differences[1] > 0.05, differences


def test_the_true_defocus_follows_height_and_tilt(tmp_path):
    folder = made(tmp_path / "sim", ctf="whole")
    options = ReadOptions(tomograms_path=folder / "truth" / "tomograms.star")
    table = read_particles(folder / "truth.star", options)
    for particle in range(len(table)):
        centre = np.array(
            read_star(folder / "truth" / "tilt_series" / "TS_01.star").blocks[0].columns["rlnDefocusU"], dtype=float
        )
        depth = [(matrix @ table.coordinates_angstrom[particle])[2] for matrix, _ in literal_series(folder / "truth")]
        defocus = table.load(particle).ctf.defocus_u_angstrom
        np.testing.assert_allclose(defocus, centre - np.array(depth), atol=1e-2)


def test_without_errors_the_truth_is_what_is_listed(tmp_path):
    folder = made(tmp_path / "sim", ctf="whole", snr=0.5, tomograms=2)
    for name in ("TS_01", "TS_02"):
        nominal = read_star(folder / "tilt_series" / f"{name}.star").blocks[0].columns
        true = read_star(folder / "truth" / "tilt_series" / f"{name}.star").blocks[0].columns
        for label in nominal:
            assert list(true[label]) == list(nominal[label])
    a, b = (
        gonio.read_particles(folder / "truth.star", tomograms_path=folder / at / "tomograms.star").load(1)
        for at in ("", "truth")
    )
    np.testing.assert_allclose(a.images, b.images, atol=1e-5)


def test_the_noise_and_the_signal_have_the_variances_that_are_stated(tmp_path):
    noisy, clean = made(tmp_path / "a", snr=0.25, count=8), made(tmp_path / "b", snr=np.inf, count=8)
    pairs = [
        tuple(read_mrc(folder / "stacks" / "TS_01" / f"{n:06d}.mrcs").data for folder in (noisy, clean))
        for n in range(1, 9)
    ]
    signal = np.mean([one.var() for _, one in pairs])
    noise = np.concatenate([one - np.sqrt(0.25) * other for one, other in pairs])
    assert noise.var() == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / noise.size))
    assert signal == pytest.approx(1.0, rel=0.02)  # but for where the box cuts what is shifted


def test_the_same_seed_makes_the_same_files_and_another_seed_others(tmp_path):
    a, b = made(tmp_path / "a", snr=1.0, **GEOMETRY), made(tmp_path / "b", snr=1.0, **GEOMETRY)
    for name in ("stacks/TS_01/000002.mrcs", "truth/tilts.csv", "truth.star"):
        one, other = (folder / name for folder in (a, b))
        if name.endswith("mrcs"):
            np.testing.assert_array_equal(read_mrc(one).data, read_mrc(other).data)
        else:
            assert one.read_text() == other.read_text()


def series(errors: GeometryErrors, tilts: np.ndarray, seed: int) -> TrueSeries:
    acquisition = Acquisition(tilts, axis_deg=70.0)
    rng = np.random.default_rng(seed)
    return TrueSeries.drawn(acquisition, errors, path=Path("x.star"), count=4, field_angstrom=FIELD, rng=rng)


def test_errors_have_the_standard_deviations_that_are_stated():
    errors = GeometryErrors(4.0, 0.5, 1.0, 0.2, 300.0, 100.0)
    tilts = np.linspace(-60.0, 60.0, 2001)
    drawn = series(errors, tilts, 1)
    near = 5.0 / np.sqrt(2 * len(tilts))  # five standard errors of a standard deviation
    true, nominal = drawn.true, drawn.nominal
    assert (true.shifts_angstrom - nominal.shifts_angstrom).std() == pytest.approx(4.0, rel=near)
    assert (true.defocus[:, :2].mean(axis=1) - nominal.defocus[:, 0]).std() == pytest.approx(300.0, rel=near)
    angles = Rotation.from_matrix(np.concatenate([true.projections_xyz, true.beams_xyz[:, None]], axis=1))
    _, y, z = angles.as_euler("xyz", degrees=True).T
    assert (y - tilts).std() == pytest.approx(0.5, rel=near)
    assert (z - (70.0 - 90.0)).std() == pytest.approx(1.0, rel=near)  # the axis' direction in the image


def test_a_tilt_axis_lies_where_it_is_stated():
    exact = series(GeometryErrors(), np.array([-60.0, 0.0, 60.0]), 0).nominal
    axis = np.array([0.0, 1.0, 0.0])  # which no tilt moves
    direction = exact.projections_xyz @ axis
    np.testing.assert_allclose(direction, np.tile([np.cos(np.radians(70)), np.sin(np.radians(70))], (3, 1)), atol=1e-9)
    np.testing.assert_allclose(exact.tilts_deg, [-60.0, 0.0, 60.0], atol=1e-9)
    assert isinstance(exact, TiltSeries) and list(np.argsort(exact.dose)) == [1, 2, 0]


def test_tilted_ice_weakens_the_signal_by_what_it_takes_from_counting():
    weak = series(GeometryErrors(ice_angstrom=1000.0), np.array([0.0, 60.0]), 0)
    # exp(-2000 / 3100) of the electrons against exp(-1000 / 3100): signal over noise by the root of the ratio
    np.testing.assert_allclose(weak.change.scale, [1.0, np.exp(-0.5 * 1000.0 / 3100.0)])


def test_motion_and_deformation_are_what_is_written(tmp_path):
    folder = made(tmp_path / "sim", dose=3.0, motion_angstrom=15.0, deformation_angstrom=10.0)
    rows = np.genfromtxt(folder / "truth" / "displacements.csv", delimiter=",", skip_header=1, usecols=(2, 3))
    moved = rows.reshape(3, 7, 2)
    table = gonio.read_particles(folder / "truth.star")
    for particle in range(3):
        images = read_mrc(folder / "stacks" / "TS_01" / f"{particle + 1:06d}.mrcs").data
        listed = table.coordinates_angstrom[particle]
        for image, (matrix, shift), extra in zip(images, literal_series(folder), moved[particle], strict=True):
            centre = (matrix @ listed)[:2] + shift
            blurred = literal_image(table[[particle]], matrix, shift + extra - centre, BOX)
            # The dose takes of the fine detail.
            assert (
                alike(image, blurred)
                < 0.5 * alike(image, literal_image(table[[particle]], matrix, shift - centre, BOX))
                or np.linalg.norm(extra) < 8.0
            )


def test_particles_keep_their_distance_and_stay_in_the_ice(rng):
    places = scattered_places(40, field_angstrom=2000.0, thickness_angstrom=700.0, distance_angstrom=250.0, rng=rng)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(40)
    assert apart.min() >= 250.0 and np.hypot(*places[:, :2].T).max() <= 875.0 and np.abs(places[:, 2]).max() <= 225.0
    with pytest.raises(ValueError, match="do not fit into a field of 500"):
        scattered_places(40, field_angstrom=500.0, thickness_angstrom=300.0, distance_angstrom=250.0, rng=rng)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"tomograms": 4}, "tomograms"),
        ({"shift_error_angstrom": -1.0}, "shift_error_angstrom"),
        ({"tilt_error_deg": np.nan}, "tilt_error_deg"),
        ({"defocus_angstrom": (3e4, 2e4)}, "defocus_angstrom"),
        ({"dose": -1.0}, "dose"),
        ({"defocus_hand": 2}, "defocus_hand"),
        ({"dose": 0.0, "motion_angstrom": 5.0}, "motion_angstrom"),
        ({"ctf": "truncated"}, "ctf"),
        ({"ctf": "none", "defocus_angstrom": (2e4, 3e4)}, "defocus_angstrom"),
        ({"ctf": "none", "defocus_error_angstrom": 100.0}, "defocus_error_angstrom"),
        ({"reconstruction_binning": 0}, "reconstruction_binning"),
        ({"tilt_step_deg": 7.0}, "tilt_range_deg"),
    ],
)
def test_options_that_make_no_sense_are_named(tmp_path, options, argument):
    with pytest.raises(ArgumentError) as caught:
        made(tmp_path / "sim", **{"ctf": "whole", **options})
    assert argument in caught.value.arguments and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"max_shift_voxels": -1.0}, "max_shift_voxels"),
        ({"resolution_angstrom": 20.0}, "resolution_angstrom"),
        ({"ctf": "none", "amplitude_contrast": 0.1}, "amplitude_contrast"),
        ({"ctf": "flipped"}, "ctf"),
    ],
)
def test_what_stacks_have_no_use_for_is_refused(tmp_path, options, argument):
    with pytest.raises(ArgumentError) as caught:
        jobs.simulate(tmp_path / "sim", count=1, box=16, stacks=StackOptions(), **options)
    assert argument in caught.value.arguments and not any(tmp_path.iterdir())


def test_tilts_of_stacks_are_whole_steps_of_their_own(tmp_path):
    folder = tmp_path / "sim"
    stacks = StackOptions(tilt_step_deg=3.5, dose=0.0, field_angstrom=FIELD)
    jobs.simulate(folder, count=1, box=16, voxel_size_angstrom=8.0, tilt_range_deg=(-8.75, 8.75), stacks=stacks)
    assert len(read_mrc(folder / "stacks" / "TS_01" / "000001.mrcs").data) == 6


def test_a_place_is_sought_anew_for_each_particle(rng, monkeypatch):
    monkeypatch.setattr("gonio.simulate.specimen.MOST_DRAWS", 50)
    places = scattered_places(80, field_angstrom=9000.0, thickness_angstrom=50.0, distance_angstrom=100.0, rng=rng)
    assert len(places) == 80 and not places[:, 2].any()  # thin ice: all in its middle


def test_a_whole_tomogram_is_the_back_projection_of_its_images(rng):
    """One particle in the middle, about y and about any axis, against the closed form."""
    tilts, edge, box = np.arange(-60.0, 61.0, 4.0), 64, 24
    phantom, pose = sharp(), Pose.random(1, rng=rng)[0]
    for axis_deg in (90.0, 85.0):
        series = Acquisition(tilts, axis_deg=axis_deg).series(Path("x.star"), np.random.default_rng(1))
        matrices = np.concatenate([series.projections_xyz, series.beams_xyz[:, None]], axis=1)
        poses = Pose(Rotation.from_matrix(matrices), np.pad(series.shifts_angstrom, ((0, 0), (0, 1)))) @ pose
        images = phantom.projections(poses, shape_yx=(edge, edge), voxel_size_angstrom=PIXEL)
        options = {"pixel_size_angstrom": PIXEL, "shape_zyx": (box, box + 4, box)}
        found = reconstructed(images.astype(np.float32), series, **options)[:, 2:-2]
        upright = Pose(Rotation.from_euler("y", tilts[:, None], degrees=True), np.zeros((len(tilts), 3))) @ pose
        exact = phantom.projections(upright, shape_yx=(edge, edge), voxel_size_angstrom=PIXEL)
        wanted = back_project(exact, tilts, box=box)
        difference = (found - found.mean()) - (wanted - wanted.mean())  # the images' mean is no part of it
        assert np.sqrt((difference**2).mean()) < 0.02 * wanted.std()


def test_particles_cut_from_a_whole_tomogram_are_where_the_truth_has_them(tmp_path):
    folder = made(tmp_path / "sim", count=6, reconstruction_binning=2, tilt_step_deg=4.0)
    assert read_mrc(folder / "tomograms" / "TS_01.mrc").voxel_size_angstrom() == pytest.approx(2 * PIXEL)
    jobs.extract(
        [folder / "tomograms"], folder / "truth.star", output=tmp_path / "cut", box=20, invert=True, normalise="none",
        tilt_range_deg=(-60, 60), threads=1,
    )  # fmt: skip
    table = gonio.read_particles(tmp_path / "cut" / "particles.star")
    assert len(table) == 6 and np.abs(table.coordinates_angstrom[:, 2]).std() > 50.0  # at heights
    for row in range(6):
        cut, pose = table.load(row), Pose(table.poses.rotation[row], np.zeros(3))
        imaging = Imaging(20, 2 * PIXEL, tilt_step_deg=4.0, ctf=None, detector_mtf=False)
        exact = simulate_subtomogram(sharp().unframed(), pose, imaging=imaging, rng=np.random.default_rng(0))
        inner = np.linalg.norm(np.indices((20,) * 3) - 10.0, axis=0) < 8.0
        assert (
            np.corrcoef(cut.volume.data[inner], exact.volume.data[inner])[0, 1] > 0.99
        )  # 0.995 measured; 0.985 a quarter of a voxel off


def test_a_whole_tomogram_has_the_centre_of_the_listed_size(tmp_path):
    folder = made(tmp_path / "sim", count=2, reconstruction_binning=4, tilt_step_deg=30.0, thickness_angstrom=310.0)
    listed = read_star(folder / "tomograms.star").find("global")
    sizes = [int(listed.text(label)[0]) for label in ("rlnTomoSizeZ", "rlnTomoSizeY", "rlnTomoSizeX")]
    shape = read_mrc(folder / "tomograms" / "TS_01.mrc").data.shape
    assert sizes == [4 * size for size in shape] and not any(size % 2 for size in shape)
