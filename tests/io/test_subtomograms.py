"""Volumes behind the lists of other programs: found, read, and told with their wedge, or one clear complaint."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gonio.io import FormatError, read_particles, write_volume
from gonio.io.em import write_em
from gonio.particle.volume import Volume
from gonio.particle.wedge import SingleAxisWedge

VOXEL = 5.0


def maps(folder, names, *, em=False):
    """Random maps of these names; returns their values."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    values = []
    for name in names:
        values.append(rng.normal(size=(8, 8, 8)).astype(np.float32))
        if em:
            write_em(folder / name, values[-1])
        else:
            write_volume(folder / name, Volume(values[-1], VOXEL))
    return values


def table(folder, *, tags=(3, 12), ftype=1):
    rows = [f"{tag} 1 1 1 0 -2 10 20 30 0.5 0 0 {ftype} -50 40 0 0 0 0 1 0 0 0 11 12 13" for tag in tags]
    (folder / "a.tbl").write_text("\n".join(rows) + "\n")
    return folder / "a.tbl"


def test_a_dynamo_table_loads_from_its_data_folder(tmp_path):
    values = maps(tmp_path / "data", ["particle_00003.em", "particle_00012.em"], em=True)
    path = table(tmp_path)
    with pytest.raises(FormatError, match="pixels and does not state their size"):
        read_particles(path, data_path=tmp_path / "data")
    particles = read_particles(path, data_path=tmp_path / "data", voxel_size_angstrom=VOXEL, invert_contrast=True)
    assert np.array_equal(particles.load(1).volume.data, -values[1])
    assert particles.load(0).wedge == SingleAxisWedge(-50, 40)
    assert particles.poses.shift_angstrom[0].tolist() == [5, 0, -10]
    assert particles.files == (path,)


def test_particles_beside_the_table_are_found_and_tell_the_voxel_size(tmp_path):
    values = maps(tmp_path, ["particle_00003.mrc", "particle_00012.mrc"])
    particles = read_particles(table(tmp_path))
    assert particles.pixel_sizes_angstrom.tolist() == [VOXEL, VOXEL]
    assert np.array_equal(particles[[1]].load(0).volume.data, values[1])
    assert particles.images == ("particle_00003.mrc", "particle_00012.mrc")


def test_a_stopgap_list_loads_with_its_wedge_list(tmp_path):
    values = maps(tmp_path / "subtomograms", ["subtomo_7.mrc", "subtomo_8.mrc"])
    labels = (
        "motl_idx tomo_num object subtomo_num halfset orig_x orig_y orig_z score x_shift y_shift z_shift phi psi the"
    )
    head = "\ndata_stopgap_motivelist\n\nloop_\n" + "".join(f"_{label}\n" for label in [*labels.split(), "class"])
    (tmp_path / "motl.star").write_text(head + "1 5 1 8 A 1 2 3 0 0 0 0 10 20 30 1\n2 5 1 7 B 1 2 3 0 0 0 0 1 2 3 1\n")
    (tmp_path / "w.star").write_text(
        "data_stopgap_wedgelist\nloop_\n_tomo_num\n_pixelsize\n_tilt_angle\n5 5.0 -40\n5 5.0 0\n5 5.0 55\n"
    )
    options = {"data_path": tmp_path / "subtomograms", "tomograms_path": tmp_path / "w.star"}
    particles = read_particles(tmp_path / "motl.star", **options)
    assert np.array_equal(particles.load(0).volume.data, values[1])  # by subtomo_num, not by row
    assert particles.load(0).wedge == SingleAxisWedge(-40, 55)
    assert particles.half_sets.tolist() == [1, 2]


def test_eman_lists_name_their_volumes(tmp_path):
    values = maps(tmp_path, ["a.mrc"])
    (tmp_path / "s.lst").write_text("#LSX\n# note\n# 20\n0\ta.mrc\t{}                \n")
    particles = read_particles(tmp_path / "s.lst", tilt_range_deg=(-60, 60))
    assert np.array_equal(particles.load(0).volume.data, values[0])


def test_eman_lists_name_images_in_hdf_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    data = np.random.default_rng(2).normal(size=(2, 8, 8, 8)).astype(np.float32)
    with h5py.File(tmp_path / "p.hdf", "w") as file:
        for number, volume in enumerate(data):
            group = file.create_group(f"MDF/images/{number}")
            group["image"] = volume
            group.attrs["EMAN.apix_x"] = VOXEL
    matrix = "[1,0,0,2, 0,1,0,0, 0,0,1,0]"
    stated = {"xform.align3d": {"__class__": "Transform", "matrix": matrix}}
    (tmp_path / "s.json").write_text(json.dumps({"('p.hdf', 1)": stated}))
    particles = read_particles(tmp_path / "s.json", tilt_range_deg=(-60, 60))
    assert np.array_equal(particles.load(0).volume.data, data[1])
    assert particles.poses.shift_angstrom[0].tolist() == [-2 * VOXEL, 0, 0]
    (tmp_path / "s.json").write_text(json.dumps({"('p.hdf', 9)": stated}))
    with pytest.raises(FormatError, match=r"p\.hdf"):
        read_particles(tmp_path / "s.json", tilt_range_deg=(-60, 60))


@pytest.mark.parametrize(
    ("prepare", "options", "says"),
    [
        (lambda folder: None, {"voxel_size_angstrom": 5.0}, "does not state where its subtomograms are .*pass --data"),
        (lambda folder: None, {"data_path": "nowhere"}, "nowhere: is no folder"),
        (lambda folder: maps(folder, ["particle_3.mrc"]), {"data_path": "."}, "has no volume of particle 12"),
        (
            lambda folder: maps(folder, ["particle_3.mrc", "particle_003.mrc", "particle_12.mrc"]),
            {},
            "two volumes of number 3",
        ),
    ],
)
def test_what_cannot_be_found_says_what_to_do(tmp_path, monkeypatch, prepare, options, says):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    with pytest.raises(FormatError, match=says):
        read_particles(table(tmp_path), **options).load(0)


def test_a_broken_particle_is_named(tmp_path):
    maps(tmp_path, ["particle_3.mrc", "particle_12.mrc"])
    whole = (tmp_path / "particle_12.mrc").read_bytes()
    (tmp_path / "particle_12.mrc").write_bytes(whole[:-9])
    particles = read_particles(table(tmp_path))
    with pytest.raises(FormatError, match=r"particle_12\.mrc: is truncated.*\(particle '12' of .*a\.tbl\)"):
        particles.load(1)
    with pytest.raises(FormatError, match=r"pass --tilt-range MIN MAX"):
        read_particles(table(tmp_path, ftype=0)).load(0)
