"""Every doubt is raised by what it is about and by nothing else; a hand is told from particles alone."""

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio.io import read_particles, read_volume
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume, mirrored_volume
from gonio.particle.wedge import NoWedge, SingleAxisWedge
from gonio.simulate import Imaging, Phantom, simulate_subtomogram, simulate_tilt_stack
from gonio.workflows import inspection as look

SHARED = Path(__file__).parents[2] / "shared" / "data"
RIBOSOMES = SHARED / "empiar10499"
BOX, VOXEL = 20, 16.0


def phantom():
    return Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)


def reference():
    return Volume(phantom().density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL)


def imaged(count=6, *, snr=1.0, seed=1, **how):
    """Noisy subtomograms at random poses."""
    rng = np.random.default_rng(seed)
    imaging = Imaging(
        box=BOX, voxel_size_angstrom=VOXEL, tilt_step_deg=4.0, ctf=None, detector_mtf=False, snr=snr, **how
    )
    poses = Pose.random(count, rng=rng)
    return [simulate_subtomogram(phantom(), poses[i], imaging=imaging, rng=rng) for i in range(count)], poses


def volumes(**how):
    return [particle.volume for particle in imaged(**how)[0]]


# Lists


def test_odd_boxes_are_doubted():
    assert look.box_without_a_middle(33).name == "odd box"
    assert look.box_without_a_middle(32) is None


def test_odd_tomograms_are_doubted():
    assert "512 x 511 x 200" in look.tomogram_without_a_middle((512, 511, 200)).what
    assert look.tomogram_without_a_middle((512, 510, 200)) is None


@pytest.mark.parametrize("wrong", [(0, 200, 0), (3867.0, 10, 10), (0, 0, np.nan), (0, -181, 0)])
def test_angles_out_of_range_are_doubted(wrong):
    angles = np.array([[10.0, 20, 30], wrong])
    assert "in row 2" in look.angles_out_of_range(angles).what
    assert look.angles_out_of_range(angles[:1]) is None


@pytest.mark.parametrize("fine", [(-180, 0, 359.9), (180, 180, -180), (0, -90, 0)])
def test_angles_in_range_are_not(fine):
    assert look.angles_out_of_range(np.array([fine])) is None


def test_radians_are_doubted():
    degrees = Pose.random(20, rng=np.random.default_rng(1)).euler_zyz_deg()
    assert look.angles_in_radians(np.radians(degrees)).name == "angles in radians"
    assert look.angles_in_radians(degrees) is None
    assert look.angles_in_radians(np.zeros((20, 3))) is None
    assert look.angles_in_radians(np.radians(degrees[:3])) is None  # too few to tell


def test_one_orientation_for_all_is_doubted():
    poses = Pose.random(5, rng=np.random.default_rng(1))
    assert look.no_orientations(Pose.identity(5)).name == "no orientations"
    assert look.no_orientations(poses) is None
    assert look.no_orientations(poses[:1]) is None


def test_large_shifts_are_doubted():
    poses = Pose(Pose.identity(3).rotation, np.array([[0.0, 0, 0], [30, 0, 0], [0, 10, 0]]))
    assert "1 of 3 shifts" in look.shifts_beyond_the_box(poses, 100.0).what
    assert look.shifts_beyond_the_box(poses, 200.0) is None


def test_particles_listed_twice_are_doubted():
    names, places = ("a", "b", "c"), np.array([[0.0, 0, 0], [300, 0, 0], [303, 0, 0]])
    found = look.listed_twice(names, ("T",) * 3, places, distance_angstrom=10.0)
    assert "c and b" in found.what
    assert look.listed_twice(names, ("T", "T", "U"), places, distance_angstrom=10.0) is None
    assert look.listed_twice(names, ("T",) * 3, places, distance_angstrom=2.0) is None


@pytest.mark.parametrize("reason", ["overlap", "origin"])
def test_halves_that_fraction_particles_are_doubted(reason):
    names = ("T/1/1", "T/1/2", "T/2") if reason == "origin" else ("T/1", "T/2", "T/3")
    places = np.array([[0.0, 0, 0], [50 if reason == "overlap" else 5000, 0, 0], [9000, 0, 0]])
    judged = {"names": names, "tomograms": ("T",) * 3, "coordinates_angstrom": places, "box_angstrom": 100.0}
    leaking = look.shared_by_halves(half_sets=np.array([1, 2, 1], np.int8), **judged)
    assert "1 groups" in leaking.what
    assert look.shared_by_halves(half_sets=np.array([1, 1, 2], np.int8), **judged) is None
    assert look.shared_by_halves(half_sets=np.zeros(3, np.int8), **judged) is None


# Tilts


def test_small_tilt_ranges_are_doubted():
    assert "span 40" in look.few_tilts(np.arange(-20, 21)).what
    assert "radians" in look.few_tilts(np.radians(np.arange(-60, 61, 3))).remedy
    assert look.few_tilts(np.arange(-60, 61, 3)) is None


def test_tilts_listed_twice_are_doubted():
    assert "first 3.00" in look.tilts_listed_twice([0, 3, -3, 3.05]).what
    assert look.tilts_listed_twice([0, 3, -3, 3.5]) is None


# Volumes


def test_dark_particles_are_doubted():
    bright = volumes(count=6, snr=0.5)
    dark = [replace(volume, data=-volume.data) for volume in bright]
    assert look.inverted_contrast(dark).name == "inverted contrast"
    assert look.inverted_contrast(bright) is None
    assert look.contrast_t(bright) > look.SURE


def test_a_dark_map_is_doubted():
    assert look.inverted_contrast([replace(reference(), data=-reference().data)]) is not None
    assert look.inverted_contrast([reference()]) is None
    noise = [Volume(np.random.default_rng(i).normal(size=(BOX,) * 3), VOXEL) for i in range(8)]
    assert look.inverted_contrast(noise) is None


def test_dark_tomograms_are_doubted():
    rng = np.random.default_rng(2)
    piece = rng.normal(size=(40, 40, 40)).astype(np.float32)
    blobs = piece.copy()
    for z, y, x in rng.integers(4, 30, (6, 3)):
        blobs[z : z + 6, y : y + 6, x : x + 6] -= 4
    assert look.dark_tomogram(blobs).name == "dark tomogram"
    assert look.dark_tomogram(-blobs) is None
    assert look.dark_tomogram(piece) is None


def test_a_tilt_axis_along_x_is_doubted():
    assert look.tilt_axis_like_x(volumes(axis_deg=0.0), (-60.0, 60.0)).name == "tilt axis along x"
    assert look.tilt_axis_like_x(volumes(axis_deg=90.0), (-60.0, 60.0)) is None
    noise = [Volume(np.random.default_rng(i).normal(size=(BOX,) * 3), VOXEL) for i in range(8)]
    assert look.tilt_axis_like_x(noise, (-60.0, 60.0)) is None


def test_a_wedge_that_is_not_seen_is_doubted():
    found, wedge = volumes(), SingleAxisWedge(-60, 60)
    assert look.measured_nowhere_empty(found, wedge) is None
    assert look.wedge_emptiness(found, wedge) < 0.5
    assert look.measured_nowhere_empty(found, SingleAxisWedge(-60, 60, axis_deg=0.0)).name == "wedge not seen"
    assert look.measured_nowhere_empty(found, NoWedge()) is None


# Hand


@pytest.mark.parametrize("given", ["as given", "mirrored"])
def test_the_hand_of_a_map_is_told(given):
    particles, poses = imaged(10, snr=0.5)
    map_ = reference() if given == "as given" else mirrored_volume(reference())
    score = look.hand_of(particles, poses, map_, rng=np.random.default_rng(0))
    assert score.fits == given
    assert abs(score.margin) > 4 * score.standard_error
    assert (score.correlations[0] > score.correlations[1]) == (given == "as given")
    assert score.dissimilarities.shape == (10, 2)


def test_a_map_without_a_hand_is_undecided():
    particles, poses = imaged(8, snr=0.5)
    both = replace(reference(), data=reference().data + mirrored_volume(reference()).data)
    score = look.hand_of(particles, poses, both, rng=np.random.default_rng(0))
    assert abs(score.margin) < 5 * score.standard_error or score.fits == "undecided"


def test_the_map_may_lie_anywhere():
    from gonio.fourier.fourier_volume import moved

    particles, poses = imaged(6, snr=1.0)
    away = Pose.from_euler_zyz_deg([40.0, 70.0, 10.0], [20.0, -10.0, 5.0])
    map_ = moved(reference(), away.matrix, away.shift_angstrom)
    score = look.hand_of(particles, poses, map_, rng=np.random.default_rng(0))
    assert score.fits == "as given"
    assert score.correlations[0] > 0.9


def write_series(folder, hand, *, reversed_tilts=False):
    """Stacks as a list of RELION 5 has them; of reversed tilts where the images are those of the mirrored specimen."""
    rng, count = np.random.default_rng(3), 8
    mirror = np.array([1.0, 1.0, -1.0 if reversed_tilts else 1.0])
    imaging = Imaging(box=BOX, voxel_size_angstrom=VOXEL, tilt_step_deg=6.0, ctf=None, detector_mtf=False, snr=2.0)
    poses = Pose.random(count, rng=rng)  # in gonio's frame
    rows, tilts = [], None
    for i in range(count):
        stack = simulate_tilt_stack(phantom(), poses[i], imaging=imaging, rng=rng)
        with mrcfile.new(folder / f"{i}.mrcs") as mrc:
            mrc.set_data(stack.images)
            mrc.voxel_size = VOXEL
        tilts = stack.projections_xyz * mirror  # P = P' D
        listed = Rotation.from_matrix(mirror[:, None] * poses[i].matrix * mirror)  # A^T = D R D
        angles = Pose(listed.inv(), np.zeros(3)).euler_zyz_deg()
        rows.append(f"T T/{i} {i}.mrcs 1 " + " ".join(f"{angle:.6f}" for angle in angles))
    labels = ["TomoName", "TomoParticleName", "ImageName", "OpticsGroup", "AngleRot", "AngleTilt", "AnglePsi"]
    lines = ["data_general", "", "_rlnTomoSubTomosAre2DStacks 1", "", "data_optics", "", "loop_"]
    lines += ["_rlnOpticsGroup #1", "_rlnImagePixelSize #2", "_rlnCtfDataAreCtfPremultiplied #3", f"1 {VOXEL} 0", ""]
    lines += ["data_particles", "", "loop_", *(f"_rln{label} #{i}" for i, label in enumerate(labels, 1)), *rows]
    (folder / "particles.star").write_text("\n".join(lines) + "\n")
    lines = ["data_global", "", "loop_", "_rlnTomoName #1", "_rlnTomoHand #2", f"T {hand}", "", "data_T", "", "loop_"]
    lines += [f"_rlnTomoProj{axis}" for axis in "XYZW"]
    for x, y in tilts:
        matrix = (x, y, np.cross(x, y))
        lines.append(" ".join([*("[" + ",".join(f"{v:.9f}" for v in (*row, 0)) + "]" for row in matrix), "[0,0,0,1]"]))
    (folder / "tomograms.star").write_text("\n".join(lines) + "\n")
    return folder / "particles.star"


def fits(table):
    """Which hand of the reference the particles of a list fit."""
    return look.hand_of(list(table.particles()), table.poses, reference(), rng=np.random.default_rng(0)).fits


@pytest.mark.parametrize("hand", [1, -1])
def test_the_tomograms_hand_mirrors_nothing(tmp_path, hand):
    assert fits(read_particles(write_series(tmp_path, hand))) == "as given"


def test_reversed_tilts_are_read_in_the_other_sense_when_asked(tmp_path):
    path = write_series(tmp_path, -1, reversed_tilts=True)
    assert fits(read_particles(path)) == "mirrored"
    assert fits(read_particles(path, reverse_tilts=True)) == "as given"


@pytest.mark.skipif(not RIBOSOMES.is_dir(), reason="shared/data/empiar10499 is not here")
def test_real_ribosomes_have_the_hand_of_7p6z():
    from gonio.simulate import Structure

    table = read_particles(RIBOSOMES / "particles.star", reverse_tilts=True)
    atoms = Structure.from_file(SHARED / "structures" / "7p6z.cif.gz", resolution_angstrom=24.0)
    map_ = Volume(atoms.density(Pose.identity(), box=32, voxel_size_angstrom=12.0), 12.0)
    score = look.hand_of(
        list(table.particles()),
        table.poses,
        map_,
        resolution_angstrom=38.0,
        diameter_angstrom=260.0,
        rng=np.random.default_rng(0),
    )
    assert score.fits == "as given"
    assert score.margin > 4 * score.standard_error
    assert score.correlations[0] > score.correlations[1] + 0.05


SIMULATED = SHARED / "pytom_simulated"


@pytest.mark.skipif(not SIMULATED.is_dir(), reason="shared/data/pytom_simulated is not here")
@pytest.mark.parametrize("number", [0, 2, 4])
def test_pytoms_own_particles_are_where_pytom_says(number):
    """Third-party truth: volumes, wedge and angles of PyTom; only the reading of them is ours."""
    import gonio
    from gonio.io.lists import read_with
    from gonio.io.source import ReadOptions
    from gonio.particle.volume import Subtomogram

    xml = SHARED / "tables" / "pytom_pickpos_format.xml"
    table = read_with(xml, ReadOptions(pixel_size_angstrom=10.0, may_count_pixels=True))
    row = next(i for i, image in enumerate(table.images) if f"particle_{number}." in image)
    listed = table.poses[row]
    volume = read_volume(SIMULATED / f"particle_{number}.em.gz", voxel_size_angstrom=10.0)
    particle = Subtomogram(volume, SingleAxisWedge(-60, 60))
    aligner = gonio.Aligner(read_volume(SIMULATED / "reference.em.gz", voxel_size_angstrom=10.0), gonio.Settings())
    found = aligner.align(particle, rng=np.random.default_rng(0)).pose  # from all orientations
    assert float(found.rotation_distance_deg(listed)) < 0.1
    assert float(found.shift_distance_angstrom(listed)) < 0.5
    plain = gonio.Aligner(aligner.reference, gonio.Settings(inputs="plain"))
    around = [
        Pose(Rotation.from_rotvec(np.radians(3.0) * axis), np.zeros(3)) @ listed for axis in (*np.eye(3), *-np.eye(3))
    ]
    scores = plain.dissimilarity(particle, Pose.stack([listed, *around]))
    assert scores[0] < scores[1:].min()  # an optimum
