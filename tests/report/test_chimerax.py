"""Scripts for ChimeraX name files that are there, and markers stand where particles are."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio import ParticleTable, Pose, Volume
from gonio.report import MapFile, maps_script, particle_scene
from gonio.report.surface import height


@pytest.fixture
def listed() -> ParticleTable:
    # The second turns z of the reference to x of the tomogram.
    turns = Rotation.from_rotvec([[0, 0, 0], [0, np.pi / 2, 0], [0.3, 0.2, 0.1]])
    poses = Pose(turns, np.array([[0.0, 0.0, 0.0], [10.0, -20.0, 30.0], [1.0, 2.0, 3.0]]))
    places = np.array([[100.0, 200.0, 300.0], [400.0, 500.0, 600.0], [700.0, 800.0, 900.0]])
    return ParticleTable(poses, ("a", 'b "<&', "c"), ("TS 01", "TS 01", "TS_02"), coordinates_angstrom=places)


def markers(text: str) -> list[dict[str, str]]:
    return [dict(one.attrib) for one in ElementTree.fromstring(text).iter("marker")]


def at(marker: dict[str, str]) -> list[float]:
    return [float(marker[axis]) for axis in "xyz"]


def test_markers_stand_where_particles_are_and_point_along_z_of_the_reference(listed):
    files = particle_scene(listed, box_angstrom=100.0)
    first, second = (text for name, text in sorted(files.items()) if name.endswith(".cmm"))
    places = [at(one) for one in markers(first)]
    assert places == [[100, 200, 300], [100, 200, 350], [410, 480, 630], [460, 480, 630]]
    assert at(markers(second)[0]) == [701, 802, 903]
    assert [one.get("note") for one in markers(first)] == ["a", None, 'b "<&', None]
    pins = [(one.get("id1"), one.get("id2")) for one in ElementTree.fromstring(first).iter("link")]
    assert pins == [("1", "2"), ("3", "4")]


def test_the_script_opens_every_marker_file_and_shows_the_first_tomogram(listed):
    files = particle_scene(listed, box_angstrom=100.0)
    opened = re.findall(r"^open (\S+) id #(\d+)$", files["particles.cxc"], flags=re.MULTILINE)
    assert [name for name, _ in opened] == [name for name in files if name.endswith(".cmm")]
    assert re.findall(r"^hide (#\d+) models$", files["particles.cxc"], flags=re.MULTILINE) == ["#2"]


def colours(listed: ParticleTable) -> list[tuple[str, ...]]:
    files = particle_scene(listed, box_angstrom=100.0)
    every = [one for name, text in files.items() if name.endswith(".cmm") for one in markers(text)]
    return [tuple(one[part] for part in "rgb") for one in every if "note" in one]


def test_particles_have_the_colour_of_their_class(listed):
    from dataclasses import replace

    shown = colours(replace(listed, classes=np.array([1, 2, 1])))
    assert shown[0] == shown[2] != shown[1]


def test_or_else_of_their_dissimilarity(listed):
    scored = listed.with_poses(listed.poses, dissimilarity=[0.1, 0.9, np.inf])
    violet, yellow, grey = (tuple(map(float, one)) for one in colours(scored))
    assert violet[2] > violet[1] and yellow[0] > 0.9 and yellow[1] > 0.8  # ends of viridis
    assert max(grey) - min(grey) < 0.1
    assert "key #440154:" in particle_scene(scored, box_angstrom=100.0)["particles.cxc"]


def test_lists_without_positions_have_no_scene(listed):
    from dataclasses import replace

    assert particle_scene(replace(listed, coordinates_angstrom=None), box_angstrom=100.0) == {}
    assert particle_scene(listed[:0], box_angstrom=100.0) == {}


def test_positions_from_the_centre_of_the_tomogram_are_said_to_be(listed):
    from dataclasses import replace

    text = particle_scene(replace(listed, coordinates_from="centre"), box_angstrom=100.0)["particles.cxc"]
    assert "centre of the tomogram" in text


def test_maps_are_opened_at_a_height_within_them(rng):
    volume = Volume(rng.normal(size=(16, 16, 16)), 10.0)
    text = maps_script([MapFile("my map.mrc", volume), MapFile("half1.mrc", volume, shown=False)])
    assert 'open "my map.mrc" id #1' in text and "open half1.mrc id #2" in text
    assert "hide #2 models" in text and "hide #1 models" not in text
    levels = [float(level) for level in re.findall(r"level (\S+)", text)]
    assert levels == pytest.approx([height(volume)] * 2, rel=1e-5)
    assert volume.data.mean() < levels[0] < volume.data.max()


def test_classes_stand_side_by_side(rng):
    volume = Volume(rng.normal(size=(8, 8, 8)), 10.0)
    assert "\ntile\n" in maps_script([MapFile("a.mrc", volume), MapFile("b.mrc", volume)], side_by_side=True)
