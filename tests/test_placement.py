"""Positions against the size of their tomograms and of a particle, and half sets against each other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from gonio.cli.app import run
from gonio.fourier.grid import index_grid
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions
from gonio.particle import half_sets
from gonio.particle.volume import Volume
from gonio.particle.wedge import SingleAxisWedge, WeightVolumeWedge
from gonio.workflows import inspection as look
from gonio.workflows import placement

LATTICE = Path(__file__).parents[2] / "shared" / "data" / "lists_hiv" / "R5_tutorial_run_data.star"
SIZE = np.array([3472.0, 4736.0, 789.0])  # angstrom


def positions(count: int = 30, part: float = 1.0, *, from_centre: bool = False) -> np.ndarray:
    """Anywhere in a part of the tomogram."""
    drawn = np.random.default_rng(5).uniform(0.02, 0.98, (count, 3)) * SIZE
    return part * (drawn - SIZE / 2 if from_centre else drawn)


def sizes(count: int = 30) -> np.ndarray:
    return np.tile(SIZE, (count, 1))


@pytest.mark.parametrize("from_centre", [False, True])
def test_positions_in_other_pixels_fill_a_corner_or_stick_out(from_centre):
    told = {"from_centre": from_centre}
    right = positions(from_centre=from_centre)
    assert placement.only_a_corner(right, sizes(), pixel_angstrom=4.0, **told) is None
    assert placement.outside_of_tomograms(right, sizes(), **told) is None
    small = placement.only_a_corner(right / 5.07, sizes(), pixel_angstrom=0.79, **told)
    assert "within 19 % of their width and height" in str(small) and re.search(r"pixels of up to 4\.[01]", str(small))
    large = placement.outside_of_tomograms(right * 5.07, sizes(), **told)
    assert "positions lie outside of the tomogram" in str(large) and "times its size; check the pixel size" in str(
        large
    )
    unknown = np.full((30, 3), np.inf)
    assert placement.only_a_corner(right / 5.07, unknown, pixel_angstrom=0.79, **told) is None
    assert placement.outside_of_tomograms(abs(right) * 5.07, unknown, **told) is None


def test_one_or_two_particles_may_lie_anywhere():
    assert placement.only_a_corner(positions(2, 0.3), sizes(2), from_centre=False, pixel_angstrom=1.0) is None


def test_neighbours_nearer_than_half_a_particle_all_over_are_crowded():
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3) * 300.0
    names = ("T",) * len(grid)
    assert placement.crowded(names, grid, particle_angstrom=300.0, pixel_angstrom=4.0) is None
    found = placement.crowded(names, grid / 5, particle_angstrom=300.0, pixel_angstrom=0.8)
    assert "64 of 64 particles are nearer to another than half a particle of 300 A (median 60 A)" in str(found)
    assert "the pixel size of positions (0.8 A) may be too small" in str(found)
    apart = tuple(map(str, range(len(grid))))
    assert placement.crowded(apart, grid / 5, particle_angstrom=300.0, pixel_angstrom=0.8) is None


def test_half_sets_of_very_unequal_size_are_said():
    def judged(one: int, two: int):
        return placement.unequal_halves(np.repeat(np.array([1, 2, 0], np.int8), [one, two, 3]))

    assert "hold 14561 and 0 particles" in str(judged(14561, 0))
    assert judged(700, 300) is not None
    assert judged(520, 480) is None and judged(5, 1) is None and judged(0, 0) is None


def test_a_lattice_is_told_how_it_can_be_divided():
    grid = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0), [0.0]), -1).reshape(-1, 3) * 75.0
    names, tomograms = tuple(map(str, range(400))), ("T",) * 400
    found = placement.boxes_in_chains(names, tomograms, grid, box_angstrom=259.0)
    assert "400 particles are 1 groups of overlapping boxes (259 A)" in str(found)
    assert "--overlap 30 " in str(found) and "(400 groups)" in str(found)
    assert placement.boxes_in_chains(names, tomograms, grid, box_angstrom=60.0) is None


def test_inspect_does_the_sum(tmp_path, capsys):
    """Coordinates of a binned tomogram beside the pixel size of the tilt series."""
    places = positions() / 8.0  # pixels of 8 A
    rows = "".join(f"TS {i} {x:.2f} {y:.2f} {z:.2f} 1 1\n" for i, (x, y, z) in enumerate(places))
    labels = ("rlnTomoName", "rlnTomoParticleName", "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
    labels += ("rlnOpticsGroup", "rlnRandomSubset")
    text = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnTomoTiltSeriesPixelSize\n1 1.0\n\ndata_particles\n\nloop_\n"
    (tmp_path / "a.star").write_text(text + "".join(f"_{label}\n" for label in labels) + rows)
    size = " ".join(f"{n:.0f}" for n in SIZE)
    head = (
        "data_global\n\nloop_\n_rlnTomoName\n_rlnTomoSizeX\n_rlnTomoSizeY\n_rlnTomoSizeZ\n_rlnTomoTiltSeriesPixelSize\n"
    )
    (tmp_path / "tomograms.star").write_text(f"{head}TS {size} 1.0\n")
    assert run(["inspect", str(tmp_path / "a.star"), "--diameter", "300"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "all positions lie in one corner of their tomograms, within 12 % of their width and height" in said
    assert "particles are nearer to another than half a particle of 300 A" in said
    assert "the half sets hold 30 and 0 particles" in said


@pytest.mark.skipif(not LATTICE.is_file(), reason="shared/data/lists_hiv is not here")
def test_hexamers_of_hiv_stand_on_their_lattice_and_can_be_divided():
    """RELION 5's tutorial: z axes are the normals of planes through six neighbours within 95 A; 57 degrees if not."""
    table = read_with(LATTICE, ReadOptions(may_count_pixels=True))
    assert len(table) == 9053 and table.coordinates_from == "centre"
    places, axes = table.places_angstrom, table.tomogram_poses.rotation.apply([0.0, 0.0, 1.0])
    off = []
    names = np.array(table.tomograms)
    for name in set(table.tomograms):
        rows = np.flatnonzero(names == name)
        distances, near = cKDTree(places[rows]).query(places[rows], k=7)
        whole = distances[:, 6] < 95.0
        around = places[rows][near[whole]]  # (p, 7, 3)
        normals = np.linalg.svd(around - around.mean(axis=1, keepdims=True))[2][:, 2]
        off.append(np.degrees(np.arccos(np.clip(np.abs((normals * axes[rows][whole]).sum(axis=1)), 0, 1))))
    assert sum(map(len, off)) == 973
    assert np.median(np.concatenate(off)) == pytest.approx(0.7, abs=0.05)
    listed = (table.names, table.tomograms, table.coordinates_angstrom)
    count = [len(np.unique(half_sets.overlapping_groups(*listed, within_angstrom=edge))) for edge in (192 * 1.35, 40.0)]
    assert count == [18, 9036]


def test_weights_whose_zero_frequency_lies_in_the_corner_are_told():
    box, voxel, rng = 20, 10.0, np.random.default_rng(0)
    weights = SingleAxisWedge(-60, 60).weight_at(index_grid(box) / (box * voxel)).astype(np.float32)
    spectra = (np.fft.fftn(rng.normal(size=(box,) * 3)) for _ in range(3))
    volumes = [Volume(np.fft.ifftn(one * np.fft.ifftshift(weights)).real, voxel) for one in spectra]
    assert look.measured_nowhere_empty(volumes, WeightVolumeWedge(weights, voxel)) is None
    found = look.measured_nowhere_empty(volumes, WeightVolumeWedge(np.fft.ifftshift(weights), voxel))
    assert "zero frequency of the weights lies in the corner" in str(found)
