"""Peaks of template matching become subtomograms, poses and a list of the real ones, whichever program found them.

Lists are written here by the rules of the programs themselves (RELION, Dynamo, AV3), not by gonio.
"""

from __future__ import annotations

import struct
import sys

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio.cli.app import run
from gonio.io import read_particles, write_volume
from gonio.particle.pose import Pose
from gonio.simulate import Phantom

pytestmark = pytest.mark.slow

VOXEL, BOX, SHAPE = 16.0, 20, (28, 76, 76)  # z, y, x
# Where peaks lie, zyx in voxels from the first: four real ones, two of noise.
PEAKS = np.array([[14, 14, 14], [14, 14, 38], [14, 38, 14], [14, 38, 38], [14, 62, 14], [14, 62, 62]])
REAL = 4
OFF_DEG = 9.0  # half of an angular step of 18 degrees


def map_at(pose, box):
    density = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)
    return density.density(pose, box=box, voxel_size_angstrom=VOXEL)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A noisy tomogram, its true poses, and the coarse ones of its peaks."""
    folder, rng = tmp_path_factory.mktemp("picks"), np.random.default_rng(4)
    true = Pose.random(len(PEAKS), rng=rng, max_shift_angstrom=20.0)
    tomogram = np.zeros(SHAPE, np.float32)
    for peak, i in zip(PEAKS[:REAL], range(REAL), strict=True):
        around = tuple(slice(at - 12, at + 12) for at in peak)
        tomogram[around] += map_at(true[i], 24)
    tomogram += rng.normal(0.0, 1.5 * map_at(Pose.identity(), BOX).std(), SHAPE).astype(np.float32)
    with mrcfile.new(folder / "tomogram_7.mrc") as mrc:
        mrc.set_data(tomogram)
        mrc.set_volume()
        mrc.voxel_size = VOXEL
    write_volume(folder / "reference.mrc", gonio.Volume(map_at(Pose.identity(), BOX).astype(np.float32), VOXEL))
    axes = rng.normal(size=(len(PEAKS), 3))
    turns = Rotation.from_rotvec(np.radians(OFF_DEG) * axes / np.linalg.norm(axes, axis=1)[:, None])
    coarse = turns * true.rotation
    write_star(folder / "picks.star", coarse)
    write_tbl(folder / "picks.tbl", coarse)
    write_em(folder / "picks.em", coarse)
    return folder, true


def write_star(path, coarse):
    """RELION: A, ZYZ of rot, tilt, psi, takes the particle to the reference; pixels from the corner, from 0 on."""
    labels = ["MicrographName", *(f"Coordinate{a}" for a in "XYZ"), "AngleRot", "AngleTilt", "AnglePsi"]
    lines = ["data_", "", "loop_", *(f"_rln{label} #{i}" for i, label in enumerate(labels, 1))]
    for peak, angles in zip(PEAKS, coarse.inv().as_euler("ZYZ", degrees=True), strict=True):
        lines.append(" ".join(["tomogram_7.mrc", *map(str, peak[::-1]), *(f"{angle:.4f}" for angle in angles)]))
    path.write_text("\n".join(lines) + "\n")


def write_tbl(path, coarse):
    """Dynamo: tdrot, tilt, narot (z x z) take the reference to the particle inversely; pixels counted from 1."""
    rows = np.zeros((len(PEAKS), 35))
    rows[:, 0], rows[:, 1], rows[:, 19] = np.arange(1, len(PEAKS) + 1), 1, 7
    rows[:, 6:9] = coarse.inv().as_euler("zxz", degrees=True)
    rows[:, 23:26] = PEAKS[:, ::-1] + 1
    np.savetxt(path, rows, fmt="%.5f")


def write_em(path, coarse):
    """AV3: 20 numbers a peak, phi, psi and theta in this order; pixels counted from 1."""
    motl = np.zeros((len(PEAKS), 20), np.float32)
    motl[:, 3], motl[:, 4] = np.arange(1, len(PEAKS) + 1), 7
    motl[:, 7:10] = PEAKS[:, ::-1] + 1
    phi, theta, psi = coarse.as_euler("zxz", degrees=True).T
    motl[:, 16:19] = np.stack([phi, psi, theta], axis=1)
    header = struct.pack("<BBBB3i", 6, 0, 0, 5, 20, len(PEAKS), 1)
    path.write_bytes(header.ljust(512, b"\0") + motl.tobytes())


@pytest.mark.parametrize("name", ["picks.star", "picks.tbl", "picks.em"])
def test_peaks_become_poses_and_a_list_of_the_real_ones(scene, tmp_path, monkeypatch, name):
    folder, true = scene
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])
    words = ["extract", f"{folder}/tomogram_7.mrc", f"{folder}/{name}", "-o", f"{tmp_path}/cut", "--box", str(BOX)]
    assert run([*words, "--pixel-size", str(VOXEL), "--tilt-range", "-90", "90", "--threads", "1"]) == 0
    words = ["align", f"{tmp_path}/cut/particles.star", "--reference", f"{folder}/reference.mrc", "--threads", "1"]
    words += ["--local", "--prior-deg", "0", "--prior-shift", "0", "--decoys", "2", "--max-q", "0.2"]
    assert run([*words, "-o", f"{tmp_path}/out"]) == 0
    every, kept = (read_particles(tmp_path / "out" / f"{one}.star") for one in ("particles", "kept"))
    assert kept.names[:REAL] == every.names[:REAL]  # noise beats two decoys one time in three
    lead = every.columns["log_likelihood"] - every.columns["decoy_log_likelihood"]
    assert lead[:REAL].min() > 3 * np.abs(lead[REAL:]).max()
    off = np.asarray(every.poses[:REAL].rotation_distance_deg(true[:REAL]))
    assert off.max() < 0.3 * OFF_DEG
    # Positions in the tomogram: those of the boxes and the shifts within them.
    found = every.coordinates_angstrom[:REAL] + every.poses.shift_angstrom[:REAL]
    if every.coordinates_from == "centre":
        found = found + np.array(SHAPE[::-1]) / 2 * VOXEL
    expected = PEAKS[:REAL, ::-1] * VOXEL + true.shift_angstrom[:REAL]
    assert np.linalg.norm(found - expected, axis=1).max() < 0.3 * VOXEL
