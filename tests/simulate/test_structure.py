"""Structures: what is read from a file, and its density against the literal sum over atoms."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from gonio.particle.pose import Pose
from gonio.simulate import Density, Structure
from gonio.simulate.structure import Atoms, decimation_matrix, read_atoms, sd_of_resolution

STRUCTURES = Path(__file__).resolve().parents[3] / "shared" / "data" / "structures"
POSE = Pose.from_euler_zyz_deg([25.0, 70.0, -110.0], [6.0, -3.0, 2.0])

PDB = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 AUTHOR DETERMINED BIOLOGICAL UNIT: DIMERIC
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000       10.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000
"""
ATOMS = """\
ATOM      1  N   ALA A   1       1.000   2.000   3.000  1.00 10.00           N
ATOM      2  CA  ALA A   1       4.000   2.000   3.000  0.50 10.00           C
ATOM      3  H   ALA A   1       4.000   9.000   3.000  1.00 10.00           H
HETATM    4  O   HOH A   2      50.000   2.000   3.000  1.00 10.00           O
END
"""
NITROGEN = 0.1022 + 0.3219 + 0.7982 + 0.8197 + 0.1715  # Tables C, 4.3.2.2, coefficients a, angstrom
CARBON = 0.0893 + 0.2563 + 0.7570 + 1.0487 + 0.3575


def written(tmp_path: Path, text: str, name: str = "two.pdb") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def scattered(count: int, *, spread: float = 40.0, seed: int = 1) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms(rng.uniform(1.0, 3.0, count), rng.uniform(-spread, spread, (count, 3)), 1)


def density_by_definition(structure: Structure, pose: Pose, box: int, voxel: float) -> np.ndarray:
    axis = (np.arange(box) - box // 2) * voxel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    sigma = structure.resolution_angstrom / 2.0  # Situs: exp(-1.5 r^2 / sigma^2)
    total = np.zeros((box, box, box))
    for weight, (cx, cy, cz) in zip(structure.weights, pose.apply(structure.centres_xyz_angstrom), strict=True):
        square = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
        total += weight * (1.5 / np.pi / sigma**2) ** 1.5 * np.exp(-1.5 * square / sigma**2)
    return total


def test_density_is_the_literal_sum_over_atoms():
    structure = Structure.from_atoms(scattered(60), resolution_angstrom=30.0)
    density = structure.density(POSE, box=16, voxel_size_angstrom=7.0)
    expected = density_by_definition(structure, POSE, 16, 7.0)
    # Each of 60 Gaussians is cut at 7 standard deviations, exp(-24.5) of its peak.
    np.testing.assert_allclose(density, expected, atol=60 * np.exp(-24.5) * expected.max())


def test_projection_is_the_sum_along_z_and_a_batch_is_each():
    structure = Structure.from_atoms(scattered(200), resolution_angstrom=40.0)
    density = structure.density(POSE, box=40, voxel_size_angstrom=8.0)
    projection = structure.projection(POSE, box=40, voxel_size_angstrom=8.0)
    # Sampling a Gaussian of 1.44 voxels aliases by 2 exp(-2 pi^2 1.44^2) < 1e-17; the rest is the cut at 7 sd.
    np.testing.assert_allclose(projection, density.sum(axis=0), atol=1e-8 * projection.max())
    images = structure.projections(Pose.stack([Pose.identity(), POSE]), shape_yx=(24, 40), voxel_size_angstrom=8.0)
    np.testing.assert_allclose(images[1], projection[8:32], atol=1e-8 * projection.max())


def test_density_holds_the_mass_on_its_centre():
    structure = Structure.from_atoms(scattered(300), resolution_angstrom=30.0)
    density = structure.density(Pose.identity(), box=32, voxel_size_angstrom=7.0)
    grid = (np.arange(32) - 16) * 7.0
    assert density.sum() * 7.0**3 == pytest.approx(structure.mass, rel=1e-6)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        # sd is 1.24 voxels: the first moment of samples is exact to about 2 exp(-2 pi^2 1.24^2).
        assert abs(density.sum(axis=others) @ grid) / density.sum() < 1e-6


def test_gaussians_narrower_than_a_voxel_do_not_alias():
    box, voxel = 24, 8.0
    structure = Structure.from_atoms(scattered(20), resolution_angstrom=12.0)
    sd = sd_of_resolution(12.0)
    k = np.stack(np.meshgrid(*3 * [np.fft.fftfreq(box, voxel)], indexing="ij"), axis=-1)[..., ::-1]  # xyz
    phase = np.tensordot(k, POSE.apply(structure.centres_xyz_angstrom), axes=(-1, -1))
    truth = np.exp(-2.0 * np.pi**2 * sd**2 * (k**2).sum(axis=-1)) * (np.exp(-2j * np.pi * phase) @ structure.weights)
    density = structure.density(POSE, box=box, voxel_size_angstrom=voxel)
    measured = np.fft.fftn(np.fft.ifftshift(density)) * voxel**3
    inside = np.abs(np.fft.fftfreq(box)) < 0.5
    cube = np.ix_(inside, inside, inside)
    error = np.linalg.norm((measured - truth)[cube]) / np.linalg.norm(truth[cube])
    # Refined threefold, sd is 1.3 fine voxels: what folds onto the coarse band is below exp(-2 pi^2 1.3^2 (1/2)^2).
    assert error < np.exp(-0.5 * np.pi**2 * 1.3**2)
    # Sampled as it is, the same density is wrong by much more.
    plain = np.fft.fftn(np.fft.ifftshift(density_by_definition(structure, POSE, box, voxel))) * voxel**3
    assert np.linalg.norm((plain - truth)[cube]) / np.linalg.norm(truth[cube]) > 0.05
    image = np.fft.fftn(np.fft.ifftshift(structure.projection(POSE, box=box, voxel_size_angstrom=voxel)))
    plane = np.ix_(inside, inside)
    slice_error = np.linalg.norm((image * voxel**3 - truth[0])[plane]) / np.linalg.norm(truth[0][plane])
    assert slice_error < np.exp(-0.5 * np.pi**2 * 1.3**2)


@pytest.mark.parametrize("count", [7, 8])
def test_decimation_keeps_a_band_limited_wave_and_drops_a_fast_one(count):
    fine = np.arange(3 * count)
    matrix = decimation_matrix(count, 3)
    slow = np.cos(2.0 * np.pi * 2 * fine / (3 * count) + 0.3)
    fast = np.cos(2.0 * np.pi * 5 * fine / (3 * count) + 0.3)
    np.testing.assert_allclose(matrix @ slow, slow[::3], atol=1e-12)
    np.testing.assert_allclose(matrix @ fast, 0.0, atol=1e-12)


def test_a_coarsened_structure_is_the_same_within_its_tolerance():
    structure = Structure.from_atoms(scattered(20_000), resolution_angstrom=40.0)
    coarse = structure.coarsened(tolerance=1e-4)
    exact = structure.density(POSE, box=20, voxel_size_angstrom=10.0)
    error = np.abs(coarse.density(POSE, box=20, voxel_size_angstrom=10.0) - exact).max()
    assert len(coarse.weights) < len(structure.weights) / 2
    assert error < 1e-4 * exact.max()
    assert coarse.radius_angstrom >= structure.radius_angstrom - coarse.sd_angstrom


def test_coarsening_never_adds_gaussians():
    structure = Structure.from_atoms(scattered(30), resolution_angstrom=10.0)
    assert structure.coarsened() is structure


def test_a_file_is_read_with_assembly_occupancy_and_without_water(tmp_path):
    atoms = read_atoms(written(tmp_path, PDB + ATOMS))
    assert atoms.chain_count == 2
    assert atoms.weights.sum() == pytest.approx(2 * (NITROGEN + 0.5 * CARBON), rel=1e-6)
    np.testing.assert_allclose(atoms.centre_of_mass_xyz_angstrom, [5.0, 0.0, 3.0], atol=1e-9)


def test_assembly_none_is_the_file_as_it_is(tmp_path):
    path = written(tmp_path, PDB + ATOMS)
    atoms = read_atoms(path, assembly=None)
    assert atoms.chain_count == 1
    assert atoms.weights.sum() == pytest.approx(NITROGEN + 0.5 * CARBON, rel=1e-6)
    structure = Structure.from_file(path, resolution_angstrom=20.0, assembly=None)
    np.testing.assert_allclose(structure.weights @ structure.centres_xyz_angstrom, 0.0, atol=1e-9)
    kept = Structure.from_atoms(atoms, resolution_angstrom=20.0, centred=False)
    assert kept.centres_xyz_angstrom[:, 0].tolist() == [1.0, 4.0]


def test_a_file_without_assemblies_is_taken_whole(tmp_path):
    path = tmp_path / "plain.pdb.gz"
    with gzip.open(path, "wt") as file:
        file.write(ATOMS)
    assert read_atoms(path).chain_count == 1
    with pytest.raises(ValueError, match=r"plain\.pdb\.gz has no assembly '2'; it has none"):
        read_atoms(path, assembly="2")


def test_an_unknown_assembly_lists_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match="has no assembly '3'; it has 1"):
        read_atoms(written(tmp_path, PDB + ATOMS), assembly="3")


@pytest.mark.parametrize("name", ["empty.pdb", "empty.cif", "junk.cif", "junk.pdb", "junk.pdb.gz"])
def test_an_unreadable_file_is_named(tmp_path, name):
    path = written(tmp_path, "" if name.startswith("empty") else "this is not a structure\n", name)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_atoms(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pdb"):
        read_atoms(tmp_path / "nowhere.pdb")


def test_structure_errors_say_what_to_change():
    with pytest.raises(ValueError, match="resolution_angstrom must be a positive number, got 0"):
        Structure([1.0], [[0.0, 0.0, 0.0]], 0.0)
    with pytest.raises(ValueError, match="not all zero"):
        Structure([0.0], [[0.0, 0.0, 0.0]], 10.0)
    with pytest.raises(ValueError, match="tolerance"):
        Structure([1.0], [[0.0, 0.0, 0.0]], 10.0).coarsened(tolerance=0.0)


@pytest.mark.parametrize(("name", "chains"), [("1oel", 14), ("1yg6", 14), ("1w6t", 8)])
def test_deposited_assemblies_have_their_chains(name, chains):
    path = STRUCTURES / f"{name}.pdb.gz"
    if not path.exists():
        pytest.skip(f"needs {path}, from the PDB")
    atoms = read_atoms(path)
    structure = Structure.from_atoms(atoms, resolution_angstrom=40.0)
    assert atoms.chain_count == chains
    assert isinstance(structure, Density)
    np.testing.assert_allclose(structure.weights @ structure.centres_xyz_angstrom / structure.mass, 0.0, atol=1e-9)
    density = structure.density(Pose.identity(), box=32, voxel_size_angstrom=10.0)
    # The box ends over 4 standard deviations of 11.5 angstrom beyond the outermost atom of each.
    assert density.sum() * 1e3 == pytest.approx(structure.mass, rel=1e-3)
