"""Lists that other programs wrote: counts, and first rows against what their columns mean, worked out here by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gonio.alignment.aligner import Aligner
from gonio.io import read_particles, write_particles
from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.em import read_em
from gonio.io.formats import format_of
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions
from gonio.io.stopgap import read_wedge_list
from gonio.particle.volume import Volume
from gonio.particle.wedge import SingleAxisWedge
from gonio.settings import Settings

SHARED = Path(__file__).parents[3] / "shared" / "data"
if not SHARED.is_dir():
    SHARED = Path("/work/shared/data")
TABLES = SHARED / "tables"
pytestmark = pytest.mark.skipif(not TABLES.is_dir(), reason="shared/data/tables is not here")


def rz(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def rx(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def ry(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def relion(rot, tilt, psi):
    """A(rot, tilt, psi) as RELION's Euler_angles2matrix has it, transposed: from the reference to the particle."""
    return rz(-psi) @ ry(-tilt) @ rz(-rot)


def from_zxz(first, second, third):
    return rz(third) @ rx(second) @ rz(first)


# File, format, count, row; its name, tomogram, position, shift, rotation, class, score, half set. Lengths are in the
# table's unit, which is pixels where it does not say their size.
ROWS = [
    (
        *("cryocat_b4_motl_CR_tm_topbott_clean600_1_dynamo.tbl", "dynamo", 1343, 0, "1", "2"),
        *((506, 547, 166), (1.0651, 1.1602, 0.6847), rz(-144.13) @ rx(79.159) @ rz(180), 1, 0.1593, 0),
    ),
    (
        *("dynamotable_t_double.tbl", "dynamo", 300, 1, "2", "1"),
        *((160.92, 96.211, 120.46), (3.2463, 1.4558, 0.36336), rz(118.64) @ rx(-88.127) @ rz(86.353), 2, 0.15606, 0),
    ),
    (
        *("dynamotable_t_complex.tbl", "dynamo", 8742, 1, "4", "1"),
        *((1005.9, 750.05, 640.53), (-1.4208, 0.58177, 0.57748), rz(60.966) @ rx(-7.3549) @ rz(-61.67), 0, 0.050439, 0),
    ),
    (
        *("stopgap_motl_head.star", "stopgap", 179, 0, "6", "24"),
        *((823, 753, 672), (0.2121, 0.6012, 5.4676), from_zxz(33.2584, 8.6516, 65.255699), 3, 0.5452, 1),
    ),
    (
        *("cryocat_motl_ribosome.em", "av3", 1023, 0, "2807", "51"),
        *((736, 738, 527), (-0.10413328, -0.10613328, 0.4353663)),
        *(from_zxz(-86.204811, 134.87393, 162.52817), 1, 0.46626, 0),
    ),
    (
        *("pytom_pickpos_format.xml", "pytom", 10, 0, "./testparticles/particle_0.em", "tomo1.tomostar"),
        *((0, 0, 0), (0, 0, 0), from_zxz(303.99186654901735, 75.7028845495521, 272.8635850585089), 0, 0.0, 0),
    ),
    (
        *("cryocat_relion_3.0.star", "relion3.0", 3, 0, "../warp/mrc/subtomo/01006/01006_0000000_5.36A.mrc"),
        "/STORAGE/anschwar/cryoET/bpbrain/rat/processing/E4/80S/warp/mrc/reconstruction/01006_10.73Apx.mrc",
        *(np.array([1028.455, 733.955, 422.955]) * 5.364, (0, 0, 0), relion(-60.19977, 120.999041, 86.088799)),
        *(None, None, 0),
    ),
    (
        *("cryocat_relion_4.0.star", "relion4", 1746, 0, "TS_017/68", "TS_017"),
        *(np.array([1700, 428, 944]) * 1.971, (-1.260416, -2.364176, -3.783296)),
        *(relion(-61.71449, 150.606435, 110.442075), 1, None, 2),
    ),
    (
        *("cylindra_Class3D_run_it025_data.star", "relion5", 10, 0, "TS_01/2", "TS_01"),
        (754.828605, -879.58025, 138.065739),
        relion(174.931305, 90.261512, -129.54646) @ -np.array([-3.75772, 4.342283, -3.75772]),
        relion(174.931305, 90.261512, -129.54646) @ relion(27.128677, 92.568990, 6.654494),
        *(1, None, 1),
    ),
    (
        *("pyseg_relion_subtomo_particles.star", "relion3.0", 60, 0),
        "/../../../../data/tutorials/exp_ssmb/klass/in/svols/particle_0.mrc",
        "/fs/pool/pool-lucic2/johannes/tomograms/stefan/090614/tomo13_z190_ves_1.mrc",
        *((602.812, 1138.678, 219.334), (10.223163, -6.581837, -15.971837)),
        *(relion(-79.127504, 92.717698, -21.492079), 1, None, 2),
    ),
    (
        *("pytom_subtomo_format.star", "relion3.0", 1037, 0),
        *("tomo200528_100.mrc/tomo200528_100.mrc_0000000_6.90A.mrc", "tomo200528_100.mrc.tomostar"),
        *(np.array([806, 398, 208]) * 6.896, (0, 0, 0), relion(-61.8573, 110.4252, 35.4281), None, None, 0),
    ),
]


@pytest.mark.parametrize(
    ("file", "kind", "count", "row", "name", "tomogram", "place", "shift", "rotation", "class_", "score", "half"),
    ROWS,
    ids=[row[0] for row in ROWS],
)
def test_first_rows_mean_what_they_say(
    tmp_path, file, kind, count, row, name, tomogram, place, shift, rotation, class_, score, half
):
    path = TABLES / file
    assert format_of(path).name == kind
    table = read_with(path, ReadOptions(may_count_pixels=True))
    assert (len(table), table.names[row], table.tomograms[row]) == (count, name, tomogram)
    assert np.abs(table.coordinates_angstrom[row] - place).max() < 1e-9 * 1e4  # positions are below 1e4
    assert np.abs(table.tomogram_poses.shift_angstrom[row] - shift).max() < 1e-6
    assert np.abs(table.tomogram_poses.matrix[row] - rotation).max() < 1e-6  # float32 of degrees
    assert (None if table.classes is None else table.classes[row]) == class_
    assert table.scores is None or abs(table.scores[row] - score) < 1e-6
    assert table.half_sets[row] == half
    # and written in its own format it is what it was
    again = write_particles(tmp_path / path.name, table, format=kind)[0]
    if kind in ("dynamo", "av3"):
        assert again.read_bytes().split() == path.read_bytes().split() or kind == "av3"
    back = read_with(again, ReadOptions(may_count_pixels=True))
    assert np.abs(back.tomogram_poses.matrix - table.tomogram_poses.matrix).max() < 1e-6
    assert np.abs(back.coordinates_angstrom - table.coordinates_angstrom).max() < 1e-5
    assert {k: tuple(v) for k, v in back.extras.items()} == {k: tuple(v) for k, v in table.extras.items()}


def test_an_em_list_is_written_back_number_by_number(tmp_path):
    path = TABLES / "cryocat_motl_ribosome.em"
    table = read_with(path, ReadOptions(may_count_pixels=True))
    write_particles(tmp_path / "a.em", table)
    assert np.array_equal(read_em(tmp_path / "a.em").data, read_em(path).data)


def test_pixel_sizes_are_those_of_the_optics_groups():
    table = read_particles(TABLES / "cryocat_relion_3.1_optics2.star", tilt_range_deg=(-60, 60))
    group = np.array(table.extras["rlnOpticsGroup"])
    assert set(zip(group.tolist(), table.pixel_sizes_angstrom.tolist(), strict=True)) <= {("1", 2.446), ("2", 3.446)}
    assert table.extras["rlnVoltage"] == ("300.000000",) * len(table)


def test_complex_numbers_of_matlab_stay():
    table = read_with(TABLES / "dynamotable_t_complex.tbl", ReadOptions(may_count_pixels=True))
    assert table.extras["dynamo_daxis"][1] == "0+1.2074e-06i"


def test_tilt_ranges_are_those_of_the_table():
    table = read_with(TABLES / "dynamotable_t_double.tbl", ReadOptions(may_count_pixels=True))
    assert table.source.tilt_ranges_deg[0].tolist() == [-60, 60, 90]
    full = read_with(TABLES / "cryocat_b4_motl_CR_tm_topbott_clean600_1_dynamo.tbl", ReadOptions(may_count_pixels=True))
    assert np.isnan(full.source.tilt_ranges_deg).all()  # fsampling type 0: nothing is missing, or nothing is said


def test_a_wedge_list_tells_tilts_and_sizes(tmp_path):
    wedges = read_wedge_list(TABLES / "cryocat_wedge_list.star")
    assert wedges[17][0] == pytest.approx(-52.0099983215332) and wedges[17][2] == 2.4
    assert TomogramSizes.read(TABLES / "cryocat_wedge_list.star").by_name["17"] == [4096.0, 4096.0, 1500.0, 2.4]
    text = (TABLES / "stopgap_motl_head.star").read_text().replace("\t24.000000", "\t17.000000")
    (tmp_path / "motl.star").write_text(text)
    (tmp_path / "wedge_list.star").write_bytes((TABLES / "cryocat_wedge_list.star").read_bytes())
    table = read_particles(tmp_path / "motl.star")
    assert table.pixel_sizes_angstrom[0] == 2.4
    assert table.source.tilt_ranges_deg[0][0] == pytest.approx(-52.0099983215332)
    assert [path.name for path in table.files] == ["motl.star", "wedge_list.star"]


def test_an_optimisation_set_leads_to_its_list(tmp_path):
    for part in ("optimisation_set", "tomograms"):
        (tmp_path / f"matching_{part}.star").write_bytes((TABLES / f"cryocat_warp2_matching_{part}.star").read_bytes())
    (tmp_path / "matching.star").write_bytes((TABLES / "cryocat_warp2_particles_matching.star").read_bytes())
    table = read_particles(tmp_path / "matching_optimisation_set.star")
    assert len(table) == 1218 and table.tomograms[0] == "TS_17.tomostar"
    sizes = TomogramSizes.read(tmp_path / "matching_tomograms.star")
    assert list(sizes.by_name["TS_17.tomostar"]) == [4400, 6000, 1000, 0.7894]


# The hand and the pose of particles that another program made


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """PyTom's list of the three particles that are here, and its reference; the voxel size is anybody's choice."""
    folder = SHARED / "pytom_simulated"
    if not folder.is_dir():
        pytest.skip("shared/data/pytom_simulated is not here")
    text = (TABLES / "pytom_pickpos_format.xml").read_text()
    for number in (0, 2, 4):
        text = text.replace(f"./testparticles/particle_{number}.em", f"{folder}/particle_{number}.em.gz")
    path = tmp_path_factory.mktemp("pytom") / "list.xml"
    path.write_text(text)
    reference = Volume(read_em(folder / "reference.em.gz").data.astype(np.float32), 10.0)
    return read_particles(path, voxel_size_angstrom=10.0)[[0, 2, 4]], reference


def test_pytoms_particles_are_found_where_its_list_has_them(simulated):
    table, reference = simulated
    aligner = Aligner(reference, Settings(resolution_angstrom=60.0))
    for index in range(3):
        particle = table.load(index)
        assert particle.wedge == SingleAxisWedge(-60.0, 60.0)
        found = aligner.align(particle)
        assert found.pose.rotation_distance_deg(table.poses[index]) < 3.0
        assert np.linalg.norm(found.pose.shift_angstrom) < 10.0  # the list says no shift: under one voxel


def test_pytoms_angles_are_where_the_score_is_best(simulated):
    """A search near the input poses stays there, and what differs from them scores worse."""
    table, reference = simulated
    settings = Settings(resolution_angstrom=60.0, search="local", inputs="plain", max_shift_angstrom=20.0)
    aligner = Aligner(reference, settings)
    for index in range(3):
        pose = table.poses[index]
        found = aligner.align(table.load(index), start=pose)
        assert found.pose.rotation_distance_deg(pose) < 0.5
        turned = replace(pose, rotation=pose.rotation.inv())
        elsewhere = aligner.align(table.load(index), start=turned)
        assert elsewhere.dissimilarity > found.dissimilarity


def test_ribosomes_go_through_other_formats_and_back(tmp_path):
    ribosomes = SHARED / "empiar10499"
    if not ribosomes.is_dir():
        pytest.skip("shared/data/empiar10499 is not here")
    table = read_with(ribosomes / "optimisation_set.star", ReadOptions(may_count_pixels=True))
    seen = read_particles(ribosomes / "optimisation_set.star")
    assert np.max(seen.poses.rotation_distance_deg(table.poses)) < 1e-6
    other = read_particles(ribosomes / "optimisation_set.star", reverse_tilts=True)  # in the frame of mirrored images
    assert np.max(other.tomogram_poses.rotation_distance_deg(table.poses)) < 1e-6
    assert np.max(other.poses.rotation_distance_deg(table.poses)) > 1.0
    plain = read_with(write_particles(tmp_path / "a.csv", table)[0], ReadOptions(may_count_pixels=True))
    options = WriteOptions(sizes=TomogramSizes.read(ribosomes / "tomograms.star"))
    path = write_particles(tmp_path / "particles.star", plain, format="relion5", options=options)[0]
    tomograms = ribosomes / "tomograms.star"
    before = read_particles(ribosomes / "optimisation_set.star")
    after = read_particles(path, tomograms_path=tomograms)
    assert np.max(after.poses.rotation_distance_deg(before.poses)) < 1e-5
    assert np.max(after.poses.shift_distance_angstrom(before.poses)) < 1e-5
    assert np.array_equal(after.load(7).images, before.load(7).images)
    # Positions, and with them the depth that is part of the defocus, go through six decimals of an angstrom.
    assert np.abs(after.load(7).ctf.defocus_u_angstrom - before.load(7).ctf.defocus_u_angstrom).max() < 1e-4
