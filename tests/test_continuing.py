"""A refinement goes on where another ended: at the places found, in its half sets, from its half maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gonio
from gonio.alignment.columns import writable
from gonio.io import FormatError
from gonio.jobs.continuing import Earlier
from gonio.particle.arguments import ArgumentError
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume
from gonio.settings import LocalSearch
from gonio.workflows.refinement_plan import Continued, Plan

COUNT = 6
RNG = np.random.default_rng(1)
FOUND = ParticleTable.from_arrays(
    Pose.random(COUNT, rng=RNG, max_shift_angstrom=8.0),
    names=[f"TS/{i}" for i in range(COUNT)],
    coordinates_angstrom=RNG.uniform(0.0, 1000.0, (COUNT, 3)),
    half_sets=[1, 2] * 3,
    rotation_sd_deg=[1.0] * COUNT,
    shift_sd_angstrom=[2.0] * COUNT,
)
CUBE = Volume(RNG.normal(size=(16,) * 3), 4.0)


def earlier(table: ParticleTable = FOUND) -> Earlier:
    return Earlier(Path("refined"), table, (CUBE, CUBE), Continued(20.0), ())


def cut_at(centres: np.ndarray, rows: list[int], **changed: object) -> ParticleTable:
    """Particles in boxes of 64 angstrom about these centres, with no poses and no half sets."""
    particles = [gonio.Subtomogram(CUBE)] * len(rows)
    names = [FOUND.names[row] for row in rows]
    table = ParticleTable.from_arrays(
        Pose.identity(len(rows)), names=names, coordinates_angstrom=centres[rows], particles=particles
    )
    return replace(table, **changed)


def test_particles_stay_where_they_were_found_wherever_their_boxes_are():
    centres, rows = FOUND.places_angstrom + RNG.uniform(-3.0, 3.0, (COUNT, 3)), [4, 1, 0]
    placed = earlier().placed(cut_at(centres, rows))
    np.testing.assert_allclose(placed.places_angstrom, FOUND.places_angstrom[rows], atol=1e-9)
    assert np.max(placed.poses.rotation_distance_deg(FOUND.poses[rows])) < 1e-6
    assert np.asarray(placed.half_sets).tolist() == [1, 2, 1]


def test_a_particle_that_was_not_refined_is_named():
    table = cut_at(FOUND.places_angstrom, [0, 1])
    with pytest.raises(ArgumentError, match=r"continue_from refined: its list has not 'TS/9'.*gonio extract"):
        earlier().placed(replace(table, names=("TS/0", "TS/9")))


def test_boxes_that_were_cut_elsewhere_are_refused():
    with pytest.raises(ArgumentError, match=r"87 angstrom .median. from the centres of their boxes of 64"):
        earlier().placed(cut_at(FOUND.places_angstrom + 50.0, [0, 1, 2]))


def test_a_particle_outside_of_its_box_is_named():
    centres = FOUND.places_angstrom.copy()
    centres[3] += [20.0, -20.0, 20.0]
    with pytest.raises(ArgumentError, match=r"outside of their boxes of 64 angstrom lie 'TS/3', up to 35 from"):
        earlier().placed(cut_at(centres, list(range(COUNT))))


def test_positions_from_another_point_need_the_orientations_found():
    rows = list(range(COUNT))
    table = cut_at(FOUND.places_angstrom, rows, coordinates_from="centre")
    with pytest.raises(ArgumentError, match="6 orientations are not its own: cut the particles at its list"):
        earlier().placed(table)
    turned = Pose(FOUND.poses.rotation, np.zeros((COUNT, 3)))
    assert earlier().placed(replace(table, poses=turned)).poses is turned


@pytest.fixture
def written(tmp_path) -> Path:
    """What a refinement leaves that another needs."""
    gonio.write_particles(tmp_path / "particles.csv", FOUND)
    for half in (1, 2):
        gonio.write_volume(tmp_path / f"half{half}.mrc", CUBE)
    (tmp_path / "summary.json").write_text(json.dumps({"best_iteration": 3, "resolution_angstrom": 21.5}))
    return tmp_path


def test_the_end_of_a_refinement_is_read(written):
    read = Earlier.read(written)
    assert read.continued == Continued(21.5, pytest.approx(np.sqrt(3.0)), pytest.approx(np.sqrt(12.0)))
    assert np.asarray(read.table.half_sets).tolist() == [1, 2] * 3


@pytest.mark.parametrize(
    ("stated", "apart", "shared"),
    [
        ({}, None, None),  # of before this was stated
        ({"halves_apart": None, "shared_angstrom": None}, None, None),  # from input poses
        ({"halves_apart": True, "shared_angstrom": 60.0}, True, 60.0),
        ({"halves_apart": "yes", "shared_angstrom": "60"}, None, None),
    ],
)
def test_whether_halves_ever_met_goes_with_them(written, stated, apart, shared):
    """Going on makes no halves independent that were not: the verdict stays doubtful."""
    summary = json.loads((written / "summary.json").read_text())
    (written / "summary.json").write_text(json.dumps(summary | stated))
    plan = Plan(continued=Earlier.read(written).continued)
    assert plan.halves_apart is apart and plan.continued.shared_angstrom == shared
    assert Plan().halves_apart is True and Plan(listed=LocalSearch(5.0, 5.0)).halves_apart is None


@pytest.mark.parametrize(
    ("unknown", "rotation", "shift"), [([1], np.sqrt(3.0), np.sqrt(12.0)), (range(COUNT), 0.0, 0.0)]
)
def test_errors_that_are_not_known_are_left_out(written, unknown, rotation, shift):
    columns = {name: np.array(values) for name, values in FOUND.columns.items()}
    for value, column in zip((np.nan, np.inf), columns.values(), strict=True):
        column[list(unknown)] = value
    gonio.write_particles(written / "particles.csv", writable(replace(FOUND, columns=columns)))
    assert Earlier.read(written).continued == Continued(21.5, pytest.approx(rotation), pytest.approx(shift))


def test_the_list_is_one_that_the_refinement_wrote(written):
    """A list of another run may lie beside it, with other half sets."""
    other = replace(FOUND, half_sets=np.array([2, 1] * 3))
    gonio.write_particles(written / "particles.star", replace(other, coordinates_from="centre"))
    (written / "settings.toml").write_text('[run]\nfiles = ["particles.csv", "half1.mrc"]\n')
    assert np.asarray(Earlier.read(written).table.half_sets).tolist() == [1, 2] * 3


def test_the_list_is_read_with_the_options_of_the_one_that_was_given(written):
    """Coordinates of RELION 3 count pixels, of a size that the list does not state."""
    (written / "particles.csv").unlink()
    rows = [
        f"{name} {half} 10.0 20.0 {30 + half}.0 {name}.mrc"
        for name, half in zip(FOUND.names, FOUND.half_sets, strict=True)
    ]
    labels = ["rlnTomoParticleName", "rlnRandomSubset", *(f"rlnCoordinate{axis}" for axis in "XYZ"), "rlnImageName"]
    labels += ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginX", "rlnOriginY", "rlnOriginZ"]
    head = ["data_", "", "loop_", *(f"_{label} #{i}" for i, label in enumerate(labels, 1))]
    (written / "particles.star").write_text("\n".join([*head, *(f"{row} 0 0 0 1 0 0" for row in rows)]) + "\n")
    with pytest.raises(FormatError, match="voxel-size"):
        Earlier.read(written)
    (written / "settings.toml").write_text(
        '[settings.list]\npath = "x.star"\nvoxel_size_angstrom = 5.0\naxis_deg = 90.0\n'
    )
    read = Earlier.read(written).table
    assert read.poses.shift_angstrom[0].tolist() == [-5.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("summary", "said"),
    [("{}", "is no finished refinement"), ('{"best_iteration": 1, "resolution_angstrom": null}', "agree nowhere")],
)
def test_what_is_no_refinement_with_an_end_is_refused(written, summary, said):
    (written / "summary.json").write_text(summary)
    with pytest.raises(ArgumentError, match=f"continue_from .*{said}"):
        Earlier.read(written)


def test_a_list_without_halves_is_refused(written):
    gonio.write_particles(written / "particles.csv", replace(FOUND, half_sets=np.zeros(COUNT, np.int8)))
    with pytest.raises(ArgumentError, match="states no half sets"):
        Earlier.read(written)
