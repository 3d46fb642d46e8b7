"""No result depends on a constant added to particles or reference, nor on the unit of their values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from gonio.alignment.aligner import Aligner
from gonio.averaging.averages import average
from gonio.averaging.resolution import half_map_fsc
from gonio.fourier.fsc import fourier_shell_correlation
from gonio.fourier.masks import soft_mask
from gonio.particle.particle_source import ParticleSource
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Particle, Subtomogram, TiltStack, Volume, soft_sphere
from gonio.preparation.extent import sphere_diameter_angstrom
from gonio.settings import LocalSearch, Settings
from gonio.simulate import PAPER_CTF, Imaging, Phantom, simulate_subtomogram, simulate_tilt_stack
from gonio.workflows.classification import classes_of_references, classify_pairs
from gonio.workflows.initial_model import initial_model
from gonio.workflows.inspection import contrast_t
from gonio.workflows.refinement import refined
from gonio.workflows.refinement_plan import Plan

pytestmark = pytest.mark.slow

BOX, VOXEL, COUNT = 20, 16.0, 6
PHANTOM = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)
IMAGING = Imaging(box=BOX, voxel_size_angstrom=VOXEL, snr=0.5, tilt_step_deg=4.0, ctf=PAPER_CTF)
MAP = Volume(PHANTOM.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL)
POSES = Pose.random(COUNT, rng=np.random.default_rng(5), max_shift_angstrom=VOXEL)
# Single precision holds 100 standard deviations to 4e-6 of one. Noise of a millionth of one turns where a search ends
# by up to 0.015 degrees (predicted error: 1 degree), as its last steps are as long as its tolerance.
SAME_DEG, SAME_ANGSTROM = 0.02, 0.02
OFFSETS = (10.0, 100.0)
# Powers of two but near to a million: values keep all their bits, so that nothing but the unit changes.
UNITS = (2.0**-20, 2.0**20)


@cache
def particle(index: int, kind: str) -> Particle:
    """Particle ``index`` as a subtomogram, noisy or nearly not, or as tilt images, of which one is excluded."""
    rng = np.random.default_rng([3, index])
    if kind != "tilt images":
        imaging = replace(IMAGING, snr=10.0) if kind == "little noise" else IMAGING
        return simulate_subtomogram(PHANTOM, POSES[index], imaging=imaging, rng=rng)
    stack = simulate_tilt_stack(PHANTOM, POSES[index], imaging=replace(IMAGING, tilt_step_deg=12.0), rng=rng)
    images = stack.images.copy()
    images[3] = 0.0
    return replace(stack, images=images)


def raised(one: Any, sds: float, unit: float = 1.0) -> Any:
    """A map or particle plus so many of its standard deviations, in another unit; an excluded image, too."""
    if isinstance(one, Subtomogram):
        return replace(one, volume=raised(one.volume, sds, unit))
    name = "images" if isinstance(one, TiltStack) else "data"
    data = getattr(one, name)
    return replace(one, **{name: unit * (data + sds * data.std())})


@dataclass(frozen=True)
class Made(ParticleSource):
    """A source of particles of a kind, all plus a constant and in a unit."""

    kind: str
    sds: float = 0.0
    unit: float = 1.0

    def load(self, index: int) -> Particle:
        return raised(particle(index, self.kind), self.sds, self.unit)


def listed(kind: str, sds: float = 0.0, unit: float = 1.0) -> ParticleTable:
    names = tuple(f"p{i}" for i in range(COUNT))
    halves = np.arange(COUNT, dtype=np.int8) % 2 + 1
    return ParticleTable(POSES, names, ("",) * COUNT, half_sets=halves, source=Made(kind, sds, unit))


def assert_same_poses(found: Pose, expected: Pose) -> None:
    assert np.max(found.rotation_distance_deg(expected)) < SAME_DEG
    assert np.max(found.shift_distance_angstrom(expected)) < SAME_ANGSTROM


# What is aligned: kind of particles, reference, and how.

NOISY_MAP = Volume(MAP.data + 0.3 * MAP.data.std() * np.random.default_rng(1).normal(size=MAP.data.shape), VOXEL)
MASK = Volume(soft_sphere(BOX, radius_px=7.0, edge_px=2.0), VOXEL)
SEARCHES = {
    "clean map": ("subtomograms", MAP, Settings(), None),
    "noisy map": ("subtomograms", NOISY_MAP, Settings(), None),
    "noisy map, fcs": ("subtomograms", NOISY_MAP, Settings(score="fcs"), None),
    "noisy map under a mask": ("subtomograms", NOISY_MAP, Settings(), MASK),
    "another particle": ("subtomograms", particle(5, "subtomograms"), Settings(), None),
    "local": ("subtomograms", NOISY_MAP, Settings(search=LocalSearch(2.0)), None),
    "plain in a sphere": (
        "subtomograms",
        NOISY_MAP,
        Settings(search="local", inputs="plain", mask_diameter_angstrom=220.0),
        None,
    ),
    "tilt images": ("tilt images", MAP, Settings(), None),
    "tilt images, local": ("tilt images", NOISY_MAP, Settings(search="local"), None),
    "tilt images, plain": ("tilt images", MAP, Settings(search="local", inputs="plain"), None),
}


def found(
    name: str, *, of_particle: tuple[float, float] = (0.0, 1.0), of_map: tuple[float, float] = (0.0, 1.0)
) -> Pose:
    kind, reference, settings, mask = SEARCHES[name]
    aligner = Aligner(raised(reference, *of_map), settings, mask=mask)
    starts = POSES[:2] if settings.search.name == "local" else None
    targets = [raised(particle(i, kind), *of_particle) for i in range(2)]
    results = aligner.align_many(targets, rng=np.random.default_rng(0), starts=starts)
    return Pose.stack([result.pose for result in results])


as_they_are = cache(found)


@pytest.mark.parametrize("sds", OFFSETS)
@pytest.mark.parametrize("name", SEARCHES)
def test_a_constant_added_to_particles_or_reference_turns_nothing(name, sds):
    assert_same_poses(found(name, of_particle=(sds, 1.0)), as_they_are(name))
    assert_same_poses(found(name, of_map=(sds, 1.0)), as_they_are(name))
    assert_same_poses(found(name, of_particle=(-sds, 1.0), of_map=(sds, 1.0)), as_they_are(name))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", SEARCHES)
def test_the_unit_of_particles_or_reference_turns_nothing(name, unit):
    assert_same_poses(found(name, of_particle=(0.0, unit)), as_they_are(name))
    assert_same_poses(found(name, of_map=(0.0, unit)), as_they_are(name))


@pytest.mark.parametrize("kind", ["subtomograms", "tilt images"])
@pytest.mark.parametrize("sds, unit", [(10.0, 1.0), (100.0, 1.0), (0.0, UNITS[0]), (0.0, UNITS[1])])
def test_an_average_knows_no_constant(kind, sds, unit):
    """But for what single precision leaves of it: 4e-6 of its spread at 100 standard deviations."""
    first, second = (listed(kind, *one) for one in ((0.0, 1.0), (sds, unit)))
    one, two = (average(table.particles(), POSES).volume.data for table in (first, second))
    np.testing.assert_allclose(two / unit - two.mean() / unit, one - one.mean(), atol=1e-4 * one.std())


@pytest.mark.parametrize("sds", OFFSETS)
def test_the_resolution_of_half_maps_knows_no_constant(sds):
    rng = np.random.default_rng(2)
    noise = [0.5 * MAP.data.std() * rng.normal(size=MAP.data.shape) for _ in range(2)]
    halves = [Volume(MAP.data + one, VOXEL) for one in noise]
    mask = soft_mask(MAP)
    plain, shifted = (
        half_map_fsc((raised(halves[0], up), raised(halves[1], -up)), mask=mask, rng=np.random.default_rng(0))
        for up in (0.0, sds)
    )
    for name, curve in plain.curves.items():
        np.testing.assert_allclose(shifted.curves[name], curve, atol=1e-4, err_msg=name)


def test_a_constant_leaves_fine_shells_what_they_are():
    """A map that holds little in its last shells correlates there with itself, whatever its mean."""
    smooth = replace(MAP, data=MAP.data - MAP.data.mean())
    np.testing.assert_allclose(
        fourier_shell_correlation(raised(smooth, 1e4), raised(smooth, 1e4)),
        fourier_shell_correlation(smooth, smooth),
        atol=1e-6,
    )


@pytest.mark.parametrize("sds", OFFSETS)
def test_where_a_map_has_density_is_the_same_above_any_constant(sds):
    one, other = MAP, raised(MAP, sds)
    assert sphere_diameter_angstrom(other) == pytest.approx(sphere_diameter_angstrom(one), rel=1e-4)
    np.testing.assert_allclose(soft_mask(other).data, soft_mask(one).data, atol=1e-4)
    assert contrast_t([other]) == pytest.approx(contrast_t([one]), rel=1e-3)


@pytest.mark.parametrize("kind, iterations", [("subtomograms", 2), ("tilt images", 1)])
@pytest.mark.parametrize("sds, unit", [(100.0, 1.0), (0.0, UNITS[1])])
def test_a_refinement_knows_no_constant(kind, iterations, sds, unit):
    """Within each half: how the halves lie on one another, maps of three particles each tell to some degrees alone."""

    def poses(table: ParticleTable, start: Volume) -> list[Pose]:
        plan = Plan(start_resolution_angstrom=80.0, max_iterations=iterations)
        found = list(refined(table, (start, start), plan))[-1].table
        halves = [found.poses[np.flatnonzero(np.asarray(found.half_sets) == half)] for half in (1, 2)]
        return [Pose.stack([half[i] @ half[0].inverse() for i in range(len(half))]) for half in halves]

    changed = poses(listed(kind, sds, unit), raised(MAP, -sds, 1.0 / unit))
    for one, other in zip(changed, poses(listed(kind), MAP), strict=True):
        assert_same_poses(one, other)


@pytest.mark.parametrize("sds, unit", [(100.0, 1.0), (0.0, UNITS[0])])
def test_classes_know_no_constant(sds, unit):
    other = Phantom.named("pseudo_symmetric", box=BOX, voxel_size_angstrom=VOXEL)
    maps = [MAP, Volume(other.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL)]
    plain = classes_of_references(listed("subtomograms"), maps, most_rounds=1)
    for table, references in (
        (listed("subtomograms", sds, unit), maps),
        (listed("subtomograms"), [maps[0], raised(maps[1], sds, unit)]),
    ):
        one = classes_of_references(table, references, most_rounds=1)
        assert_same_poses(one.poses, plain.poses)
        np.testing.assert_array_equal(one.labels, plain.labels)
        np.testing.assert_allclose(one.margin, plain.margin, rtol=1e-2)


@pytest.mark.parametrize("sds, unit", [(100.0, 1.0), (0.0, UNITS[0])])
def test_pairs_and_a_map_from_nothing_know_no_constant(sds, unit):
    one, other = (classify_pairs(table[:3]) for table in (listed("subtomograms"), listed("subtomograms", sds, unit)))
    np.testing.assert_allclose(other.dissimilarity("rcs"), one.dissimilarity("rcs"), atol=1e-4)
    one, other = (
        initial_model(table, count=COUNT, rng=np.random.default_rng(0))
        for table in (listed("little noise"), listed("little noise", sds, unit))
    )
    # Each turn starts from the last one's average, and so from how that was rounded.
    assert np.max(other.table.poses.rotation_distance_deg(one.table.poses)) < 5 * SAME_DEG
