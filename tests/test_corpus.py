"""Real data whose conventions are known: where each answer is tested, and those that are tested nowhere else.

Every set of the shared data, what is known of it, and the test that finds it again are rows of ``ANSWERS``. Tested here
are the hand of stacks that RELION extracted, the rings of single images of M, and a microtubule, whose lattice of equal
monomers is known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from scipy.spatial.transform import Rotation

from gonio.alignment.aligner import Aligner
from gonio.averaging.averages import average
from gonio.io import read_particles, read_volume
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions
from gonio.particle.ctf import Ctf
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Particle, Subtomogram, TiltStack, Volume, mirrored_volume, soft_sphere
from gonio.particle.wedge import SingleAxisWedge
from gonio.settings import LocalSearch, Settings
from gonio.simulate import Structure
from gonio.workflows.checks import opposite_contrast, sample_of
from gonio.workflows.extraction import Cutting, cut_out
from gonio.workflows.refinement import refined
from gonio.workflows.refinement_plan import Plan

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
SHARED = TESTS.parents[1] / "shared" / "data"
EXTRACTED = SHARED / "relion_extracted"
SINGLE = SHARED / "tilt_images_3.9A" / "M_particles_sub10.star"
MICROTUBULE = SHARED / "microtubule_13pf" / "13pf_MT.tif"

# Set of data, what is known of it, and the file and the test that find it again.
ANSWERS = (
    ("lists_hiv", "z axes on the lattice normals", "test_placement.py", "hexamers_of_hiv_stand_on_their_lattice"),
    ("relion_extracted", "3 degrees from the poses", "io/test_hand.py", "stacks_that_relion_extracted_lie_where"),
    ("relion_extracted", "right hand", "test_corpus.py", "stacks_that_relion_extracted_are_not_mirrored"),
    ("pytom_simulated", "0.5 degrees; not inverted", "io/test_tables.py", "pytoms_angles_are_where_the_score_is_best"),
    ("pytom_simulated", "found from anywhere", "test_inspection.py", "pytoms_own_particles_are_where_pytom_says"),
    ("pytom_simulated", "bright", "test_corpus.py", "contrast_is_doubted_of_pytoms_particles_only_where"),
    ("empiar10499", "bright", "test_corpus.py", "contrast_is_doubted_of_real_ribosomes_only_where"),
    ("empiar10499", "656 angstrom apart", "io/test_cases.py", "no_two_real_ribosomes_are_nearer_than_their_diameter"),
    ("empiar10499", "the mirror image of 7P6Z", "test_ribosomes.py", "as_listed_the_particles_show_the_mirror_image"),
    ("structures", "7P6Z", "test_ribosomes.py", "the_average_shows_the_atoms"),
    ("tables", "poses and places of first rows", "io/test_tables.py", "first_rows_mean_what_they_say"),
    ("tables", "WarpTools counts image pixels", "io/test_cases.py", "positions_of_warptools_stacks_are_the_same_place"),
    ("tables", "species in angstrom", "io/test_particle_series.py", "a_species_that_m_wrote"),
    ("ribosome_in_cell", "aligns to 6QZP", "io/test_particle_series.py", "ribosomes_in_a_cell_average_and_align"),
    (
        "ribosome_in_cell",
        "signs of CTF and poses",
        "io/test_particle_series.py",
        "images_agree_best_with_the_structure",
    ),
    ("tilt_images_3.9A", "one image of many", "io/test_particle_series.py", "one_image_of_a_stack_that_claims_11029"),
    ("tilt_images_3.9A", "rings of one tomogram", "test_corpus.py", "single_images_have_the_rings_of_the_first_row"),
    ("microtubule_13pf", "left-handed start", "test_corpus.py", "the_start_of_a_microtubule_is_left_handed"),
    (
        "microtubule_13pf",
        "41.2 angstrom, 13-fold",
        "test_corpus.py",
        "monomers_of_a_microtubule_return_to_their_lattice",
    ),
)


@pytest.mark.parametrize(("_set", "_known", "file", "test"), ANSWERS)
def test_every_answer_has_its_test(_set, _known, file, test):
    assert f"def test_{test}" in (TESTS / file).read_text()


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not here")
def test_every_set_of_data_has_an_answer():
    assert {path.name for path in SHARED.iterdir() if path.is_dir()} == {row[0] for row in ANSWERS}


# Stacks that RELION 5 extracted, hand -1


@pytest.mark.skipif(not EXTRACTED.is_dir(), reason="shared/data/relion_extracted is not here")
def test_stacks_that_relion_extracted_are_not_mirrored(monkeypatch):
    """Their poses are those that the series was made at, and the map fits there, its mirror image nowhere near."""
    monkeypatch.chdir(EXTRACTED)
    truth = read_with(Path("input") / "particle.star", ReadOptions(may_count_pixels=True))
    jobs = ("job001_-999", "job001_filled")
    tables = [read_particles(Path("Extract") / job / "optimisation_set.star") for job in jobs]
    for table in tables:  # the list has six decimals of a degree
        assert np.max(table.poses.rotation_distance_deg(truth.poses)) < 1e-4
    map_ = read_volume("6qzp.mrc")
    settings = Settings(search="local", resolution_angstrom=24.0)
    for i, start in enumerate(truth.poses[i] for i in range(2)):
        own, mirrored = (
            Aligner(one, settings).align(tables[1].load(i), start=start) for one in (map_, mirrored_volume(map_))
        )
        assert own.pose.rotation_distance_deg(start) <= 3.0  # measured 1.0 and 2.4
        assert mirrored.dissimilarity > own.dissimilarity + 0.1  # measured 0.87 and 1.17, 1.13 and 1.31


# Single images of M

# Where rings are looked for, 1/angstrom; by how much they fade, square angstrom; and the terms of the smooth power.
RINGS, FADING, SMOOTH = (1 / 62.0, 1 / 10.0), 500.0, 7


def agreement(image: NDArray[np.float32], ctf: Ctf, pixel_angstrom: float) -> float:
    """How well an image's power follows the square of a transfer, in standard deviations of images without rings."""
    size = len(image)
    y, x = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size)[1:-1], indexing="ij")  # each pair of samples once
    frequency = np.stack([x, y], axis=-1) / pixel_angstrom
    radius = np.linalg.norm(frequency, axis=-1)
    within = (radius > RINGS[0]) & (radius < RINGS[1])
    radius, frequency = radius[within], frequency[within]
    smooth = np.polynomial.legendre.legvander(2 * (radius - RINGS[0]) / (RINGS[1] - RINGS[0]) - 1, SMOOTH - 1)
    power = np.log(np.abs(np.fft.rfft2(image)[:, 1:-1][within]) ** 2)
    expected = ctf.transfer(frequency)[0] ** 2 * np.exp(-FADING * radius**2 / 4)
    power, expected = (one - smooth @ np.linalg.lstsq(smooth, one)[0] for one in (power, expected))
    return float(power @ expected / np.linalg.norm(expected) / power.std())


def all_agree(stacks: list[TiltStack], ctfs: list[Ctf], *, magnified: float = 1.0) -> float:
    """The agreement of all images taken together, in standard deviations."""
    pairs = zip(stacks, ctfs, strict=True)
    each = [agreement(stack.images[0], ctf, magnified * stack.voxel_size_angstrom) for stack, ctf in pairs]
    return float(np.sum(each) / np.sqrt(len(each)))


@pytest.mark.skipif(not SINGLE.is_file(), reason="shared/data/tilt_images_3.9A is not here")
def test_single_images_have_the_rings_of_the_first_row():
    """Files whose headers all state 11,029 images hold images of one tomogram: that of the first row.

    The other rows describe neither defocus nor pose of the image in their file, so that no structure can be found at
    their poses. The first row's CTF is that of all images, at its own defocus, phase and pixel size alone.
    """
    stacks = list(read_particles(SINGLE).particles())
    del stacks[5]  # two rows name one file
    own = [stack.ctf for stack in stacks]
    first, count = own[0], len(own)
    assert all_agree(stacks[1:], own[1:]) < 3.0  # measured 0.3
    assert all_agree(stacks[1:], [first] * (count - 1)) > 4.0  # measured 5.2
    assert all_agree(stacks, [first] * count) > 5.0  # measured 6.5
    wrong = [first.refocused(part * first.defocus_u_angstrom) for part in (-0.5, -0.3, -0.2, 0.2, 0.4, 1.0)]
    for ctf in (*wrong, replace(first, phase_shift_deg=60.0)):
        assert all_agree(stacks, [ctf] * count) < 3.0  # measured 1.4 at most
    # The files' name says 1.70 A.
    assert all_agree(stacks, [first] * count, magnified=1.7 / 3.9) < 3.0  # measured 0.0


# Contrast, as commands look at it before they begin: told of particles that are dark, and of no others


def contrast_warnings(particles: list[Particle], map_: Volume) -> list[bool]:
    """Whether there is one for particles as they are, for the same inverted, and against the inverted map."""

    def inverted(one: Particle) -> Particle:
        if isinstance(one, TiltStack):
            return replace(one, images=-one.images)
        return replace(one, volume=replace(one.volume, data=-one.volume.data))

    pairs = (particles, map_), ([inverted(one) for one in particles], map_), (particles, replace(map_, data=-map_.data))
    found = (opposite_contrast(some, one, name="the map", remedy="invert") for some, one in pairs)
    return [one is not None for one in found]


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not here")
def test_contrast_is_doubted_of_pytoms_particles_only_where_inverted():
    read = partial(read_volume, voxel_size_angstrom=10.0)
    names = (SHARED / "pytom_simulated" / f"particle_{number}.em.gz" for number in (0, 2, 4))
    particles: list[Particle] = [Subtomogram(read(name), SingleAxisWedge(-60.0, 60.0)) for name in names]
    assert contrast_warnings(particles, read(SHARED / "pytom_simulated" / "reference.em.gz")) == [False, True, True]


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not here")
def test_contrast_is_doubted_of_real_ribosomes_only_where_inverted():
    table = read_particles(SHARED / "empiar10499" / "optimisation_set.star")
    particles = sample_of(table)
    box, size = particles[0].box, particles[0].voxel_size_angstrom
    atoms = Structure.from_file(SHARED / "structures" / "7p6z.cif.gz", resolution_angstrom=2.0 * size).coarsened()
    density = atoms.density(Pose.identity(), box=box, voxel_size_angstrom=size)
    assert contrast_warnings(particles, Volume(density.astype(np.float32), size)) == [False, True, True]


# A microtubule of 13 protofilaments

VOXEL, BOX = 10.52, 20
# Of its axis, in voxels (x, y, z): where it crosses y = 0, its direction, and the monomers' distance from it.
CROSSING, AXIS, RADIUS = np.array([84.37, 0.0, 16.72]), np.array([-0.3179, 1.0, 0.0063]), 10.45
ALONG = AXIS / np.linalg.norm(AXIS)
# Protofilaments; angstrom between monomers along each; how many of these a turn of the helix climbs.
COUNT, REPEAT, STARTS = 13, 41.2, 3
# Of the first protofilament, from x about the axis: where the order 13 of the density at 12 voxels has its maximum.
PHASE_DEG = -8.0
# Two stretches of four turns each, half sets whose boxes share no voxel: they are 330 angstrom apart, a box is 210.
TURNS = np.array([-7, -6, -5, -4, 4, 5, 6, 7])
# The tilt range is not stated. The spectrum of the crop falls to a fifteenth where |kz| > |kx| tan 60, and along no
# other axis: tilts of 60 degrees to both sides about y.
WEDGE = SingleAxisWedge(-60.0, 60.0, axis_deg=90.0)


@dataclass(frozen=True)
class Lattice:
    """Where monomers are in the tomogram, angstrom (m, 3), and how turned: x points outwards, z along the axis.

    Rows are turns of the helix, and in each the protofilaments.
    """

    places: NDArray[np.float64]
    rotations: Rotation


def across() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two unit vectors, x and the next, that with the axis are a right-handed frame."""
    first = np.array([1.0, 0.0, 0.0]) - ALONG[0] * ALONG
    first /= np.linalg.norm(first)
    return first, np.cross(ALONG, first)


def lattice(hand: int) -> Lattice:
    """The middle of the microtubule as a helix that climbs along its axis (1, right-handed) or down (-1)."""
    turn, filament = (one.ravel() for one in np.meshgrid(TURNS, np.arange(COUNT), indexing="ij"))
    angle = np.radians(PHASE_DEG + 360.0 * filament / COUNT)
    height = 108.0 * VOXEL + REPEAT * (turn + hand * STARTS * filament / COUNT)
    first, second = across()
    outwards = np.outer(np.cos(angle), first) + np.outer(np.sin(angle), second)
    frames = np.stack([outwards, np.cross(ALONG, outwards), np.broadcast_to(ALONG, outwards.shape)], axis=-1)
    places = VOXEL * (CROSSING + RADIUS * outwards) + np.outer(height, ALONG)
    return Lattice(places, Rotation.from_matrix(frames))


@pytest.fixture(scope="module")
def tomogram() -> NDArray[np.float32]:
    if not MICROTUBULE.is_file():
        pytest.skip("shared/data/microtubule_13pf is not here")
    with Image.open(MICROTUBULE) as pages:
        return np.array([np.array(page) for page in ImageSequence.Iterator(pages)], dtype=np.float32)


def monomers(tomogram: NDArray[np.float32], places: NDArray[np.float64]) -> list[Subtomogram]:
    def voxels(low, high):
        return tomogram[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]

    boxes = (cut_out(voxels, tomogram.shape, place[::-1] / VOXEL, Cutting(BOX)).data for place in places)
    return [Subtomogram(Volume((box - box.mean()) / box.std(), VOXEL), WEDGE) for box in boxes]


def ripple(volume: Volume) -> float:
    """How strongly a map repeats along z with the distance of monomers."""
    height = (np.arange(BOX) - BOX // 2) * VOXEL
    wave = np.exp(-2j * np.pi * height / REPEAT)[:, None, None]
    return float(abs((volume.data * soft_sphere(BOX, radius_px=BOX / 2 - 2, edge_px=2.0) * wave).mean()))


def test_the_start_of_a_microtubule_is_left_handed(tomogram):
    """Of the two helices of three starts only the left-handed one lays monomer on monomer, as is known of them.

    A helix of the other hand lays 13 protofilaments in 13 different phases of their repeat, of which nothing is left.
    """
    left, right = (
        ripple(average(monomers(tomogram, one.places), Pose(one.rotations, np.zeros_like(one.places))).volume)
        for one in (lattice(-1), lattice(1))
    )
    assert left > 4 * right  # measured 0.0101 and 0.0005


def seen(places: NDArray[np.float64], rotations: Rotation) -> SimpleNamespace:
    """Distances along protofilaments, steps about the axis by place and by pose, climb between neighbours, tilt."""
    from_axis = places - VOXEL * CROSSING
    height = (from_axis @ ALONG).reshape(-1, COUNT)
    steps = []
    for vectors in (from_axis, rotations.apply([1.0, 0.0, 0.0])):
        angle = np.arctan2(*(vectors @ one for one in reversed(across()))).reshape(-1, COUNT)
        steps.append(np.degrees(np.mod(np.roll(angle, -1, axis=1) - angle, 2 * np.pi)))
    next_to = np.diff(TURNS) == 1
    return SimpleNamespace(
        repeat=np.diff(height, axis=0)[next_to].ravel(),
        step_of_places=steps[0].ravel(),
        step_of_poses=steps[1].ravel(),
        climb=np.diff(height, axis=1).ravel(),
        tilt_deg=np.degrees(np.arccos(np.clip(rotations.apply([0.0, 0.0, 1.0]) @ ALONG, -1, 1))),
    )


def scatter(values: NDArray[np.float64]) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def test_monomers_of_a_microtubule_return_to_their_lattice(tomogram):
    """Poses 5 degrees and 5 angstrom off, refined in half sets that share no voxel: nothing tells them the lattice."""
    known = lattice(-1)
    count, rng = len(known.places), np.random.default_rng(0)
    directions = rng.normal(size=(2, count, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    moved = Pose(Rotation.from_rotvec(np.radians(5.0) * directions[0]) * known.rotations, 5.0 * directions[1])
    particles = monomers(tomogram, known.places)
    table = ParticleTable(
        moved,
        tuple(map(str, range(count))),
        ("microtubule",) * count,
        coordinates_angstrom=known.places,
        half_sets=np.repeat(np.array([1, 2], np.int8), count // 2),
        pixel_sizes_angstrom=np.full(count, VOXEL),
        source=SimpleNamespace(load=particles.__getitem__, image=lambda row: None, files=()),
    )
    per_axis = 5.0 / np.sqrt(3)
    plan = Plan(
        settings=Settings(resolution_angstrom=32.0),
        listed=LocalSearch(per_axis, per_axis),
        max_iterations=4,
    )
    *_, last = refined(table, None, plan)
    before, after = (seen(known.places + poses.shift_angstrom, poses.rotation) for poses in (moved, last.table.poses))
    assert np.median(after.repeat) == pytest.approx(REPEAT, abs=1.0)  # measured 41.05, scatter 2.6 before and 0.6
    assert np.median(after.step_of_places) == pytest.approx(360 / COUNT, abs=1.0)
    assert np.median(after.step_of_poses) == pytest.approx(360 / COUNT, abs=1.0)
    assert np.median(after.climb) == pytest.approx(-STARTS * REPEAT / COUNT, abs=1.0)
    # Medians of many random shifts are right before as well; that each monomer is back is seen in their scatter.
    assert scatter(after.repeat) < scatter(before.repeat) / 2
    assert scatter(after.climb) < scatter(before.climb) / 2
    turned = known.rotations.inv() * last.table.poses.rotation  # and the frame of the averages by what all have alike
    off = np.degrees((turned * turned.mean().inv()).magnitude())
    assert np.median(off) < 3.0  # measured 2.3
    # By chance half of the monomers would come nearer: four standard deviations above that.
    assert np.sum(after.tilt_deg < before.tilt_deg) > count / 2 + 4 * np.sqrt(count) / 2
