"""Maps made of maps: other voxels, boxes, poses and hands, and masks of their density."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio import jobs
from gonio.cli.app import run
from gonio.particle.arguments import ArgumentError
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume

# Three Gaussians of widths that voxels of 10 A resolve, none on an axis: no rotation or mirror maps it to itself.
PLACES_XYZ = np.array([[30.0, 5.0, -12.0], [-18.0, 27.0, 8.0], [4.0, -21.0, 33.0]])
HEIGHTS, SD_ANGSTROM = np.array([1.0, 0.6, 0.3]), 14.0


def blobs(box: int, voxel: float, pose: Pose | None = None, *, hand: float = 1.0) -> Volume:
    """The density itself at each voxel: the literal oracle."""
    places = PLACES_XYZ * [hand, 1.0, 1.0]
    places = places if pose is None else pose.apply(places)
    axis = (np.arange(box) - box // 2) * voxel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    data = sum(
        h * np.exp(-((x - p[0]) ** 2 + (y - p[1]) ** 2 + (z - p[2]) ** 2) / (2 * SD_ANGSTROM**2))
        for h, p in zip(HEIGHTS, places, strict=True)
    )
    return Volume(data + 0.25, voxel)


def direct(volume: Volume, points_px: np.ndarray) -> np.ndarray:
    """The Fourier series of a map at points (p, 3) in voxels zyx from its centre voxel, term by term."""
    n = volume.box
    spectrum = np.fft.fftn(np.fft.ifftshift(volume.data.astype(np.float64)))
    k = np.fft.fftfreq(n, 1 / n)
    out = []
    for z, y, x in points_px:
        waves = [np.exp(2j * np.pi * k * p / n) for p in (z, y, x)]
        if n % 2 == 0:
            for wave, p in zip(waves, (z, y, x), strict=True):
                wave[n // 2] = np.cos(np.pi * p)
        out.append(np.einsum("zyx,z,y,x->", spectrum, *waves).real / n**3)
    return np.array(out)


@pytest.mark.parametrize(("old", "new"), [(32, 40), (32, 41), (33, 40), (33, 41)])
def test_smaller_voxels_show_the_same_object_at_the_same_place(old, new):
    fine = blobs(old, 10.0).resampled(7.7, box=new)
    assert fine.voxel_size_angstrom == 7.7 and fine.box == new
    np.testing.assert_allclose(fine.data, blobs(new, 7.7).data, atol=2e-3)


@pytest.mark.parametrize("box", [15, 16])
def test_any_voxel_is_the_fourier_series_at_its_place(rng, box):
    """White noise up to the last frequency: nothing but the series itself gives these values."""
    volume = Volume(rng.normal(size=(box,) * 3), 3.0)
    fine = volume.resampled(1.9, box=20)
    index = rng.integers(2, 18, size=(12, 3))
    points = (index - 10) * (1.9 / 3.0)
    np.testing.assert_allclose(fine.data[tuple(index.T)], direct(volume, points), atol=2e-5)


@pytest.mark.parametrize("box", [36, 37])
def test_larger_voxels_show_what_they_can_and_alias_nothing(box):
    coarse = blobs(box, 5.0).resampled(10.0, box=17)
    np.testing.assert_allclose(coarse.data[1:-1, 1:-1, 1:-1], blobs(17, 10.0).data[1:-1, 1:-1, 1:-1], atol=6e-3)
    axis = np.arange(box) - box // 2
    wave = np.cos(2 * np.pi * (2 * box // 5) * axis / box)  # faster than the larger voxels can show
    fast = Volume(np.broadcast_to(wave, (box,) * 3), 5.0)
    assert np.abs(fast.resampled(10.0, box=16).data[4:-4, 4:-4, 4:-4]).max() < 0.2 * np.abs(fast.data).max()


def test_there_and_back_is_the_map_and_no_change_is_no_change():
    volume = blobs(32, 10.0)
    np.testing.assert_allclose(volume.resampled(5.0).resampled(10.0).data, volume.data, atol=1e-4)
    np.testing.assert_array_equal(volume.resampled(10.0).data, volume.data)
    np.testing.assert_array_equal(volume.resampled(10.0, box=20).data, volume.cropped(20).data)


def test_the_box_keeps_its_length_to_an_even_number():
    assert [blobs(n, 10.0).resampled(20.0).box for n in (32, 33, 34, 35, 36)] == [16, 16, 16, 18, 18]
    assert blobs(33, 10.0).resampled(10.0).box == 33


@pytest.mark.parametrize("box", [24, 25])
def test_what_lies_beyond_the_map_is_its_background(box):
    wide = blobs(box, 10.0).resampled(8.0, box=48)
    np.testing.assert_allclose(wide.data[:4], 0.25, atol=5e-3)
    # Were the map repeated there, the density of its other side would appear.
    assert wide.data[:, :, :4].max() < 0.3


@pytest.mark.parametrize("box", [40, 41])
def test_a_moved_map_is_the_moved_object(box):
    pose = Pose(Rotation.from_rotvec([0.3, -0.9, 0.5]), np.array([12.0, -7.0, 20.0]))
    moved = blobs(box, 8.0).moved(pose)
    np.testing.assert_allclose(moved.data, blobs(box, 8.0, pose).data, atol=2e-3)
    assert np.abs(moved.data - blobs(box, 8.0, pose.inverse()).data).max() > 0.3


def test_what_leaves_the_box_does_not_come_in_on_the_other_side(rng):
    shifted = blobs(32, 10.0).moved(Pose.from_euler_zyz_deg([0, 0, 0], [250.0, 0.0, 0.0]))
    np.testing.assert_allclose(shifted.data, 0.25, atol=5e-3)
    # Density in a corner alone, rotated out by 45 degrees about z: let in again it would be inside the particle.
    data = np.zeros((32, 32, 32))
    data[14:18, :3, :3] = 1.0
    out = Volume(data, 10.0).moved(Pose.from_euler_zyz_deg([0, 0, 45], [0.0, 0.0, 0.0]))
    assert np.abs(out.data[8:24, 8:24, 8:24]).max() < 0.03


def test_hands_boxes_and_contrast():
    volume = blobs(32, 10.0)
    np.testing.assert_allclose(volume.mirrored().data[:, :, 1:], blobs(32, 10.0, hand=-1.0).data[:, :, 1:], atol=1e-6)
    np.testing.assert_array_equal(volume.cropped(21).data, blobs(21, 10.0).data)
    np.testing.assert_allclose(volume.padded(45).data, blobs(45, 10.0).data, atol=6e-3)
    np.testing.assert_array_equal(volume.inverted().data, -volume.data)
    with pytest.raises(ValueError, match="between 8 and 32 voxels to crop, got 33"):
        volume.cropped(33)
    with pytest.raises(ValueError, match="at least 32 voxels to pad, got 20"):
        volume.padded(20)
    with pytest.raises(ValueError, match="at least 8 are needed"):
        volume.resampled(100.0)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="must be a positive number"):
            volume.resampled(bad)


def test_a_mask_encloses_what_is_asked_for():
    volume = blobs(40, 8.0)
    sharp = {"resolution_angstrom": 17.0, "wider_angstrom": 0.0, "edge_angstrom": 0.0}
    enclosed = volume.mask(enclosed_angstrom3=100_000.0, **sharp).data
    assert set(np.unique(enclosed)) == {0.0, 1.0}
    assert enclosed.sum() * 8.0**3 == pytest.approx(100_000.0, abs=8.0**3)
    by_mass = volume.mask(mass_kda=100.0, **sharp).data  # 1.212 cubic angstrom a dalton
    assert by_mass.sum() * 8.0**3 == pytest.approx(121_200.0, rel=0.01)
    at = volume.mask(threshold=0.7, wider_angstrom=0.0, edge_angstrom=0.0).data
    np.testing.assert_array_equal(at, volume.data > 0.7)


def test_a_mask_is_wider_by_what_is_asked_for_and_falls_as_a_cosine():
    ball = np.linalg.norm(np.mgrid[-20:20, -20:20, -20:20], axis=0) * 5.0
    mask = Volume(ball < 30.0, 5.0).mask(threshold=0.5, wider_angstrom=10.0, edge_angstrom=20.0).data
    line = mask[20, 20, 20:]  # 5 A a voxel; the last voxel of the ball is at 25 A
    np.testing.assert_allclose(line[:8], 1.0)
    np.testing.assert_allclose(line[8:11], 0.5 + 0.5 * np.cos(np.pi * np.array([0.25, 0.5, 0.75])), atol=1e-6)
    np.testing.assert_allclose(line[11:], 0.0, atol=1e-6)


def test_one_piece_or_all_and_no_holes():
    data = np.zeros((24, 24, 24))
    data[4:14, 4:14, 4:14] = 1.0
    data[8, 8, 8] = 0.0
    data[18:21, 18:21, 18:21] = 1.0
    options = {"threshold": 0.5, "wider_angstrom": 0.0, "edge_angstrom": 0.0}
    whole = Volume(data, 10.0).mask(**options).data
    assert whole[8, 8, 8] == 1.0 and whole[19, 19, 19] == 1.0
    assert Volume(data, 10.0).mask(**options, largest=True).data[19, 19, 19] == 0.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threshold": 5.0}, "threshold 5 leaves all or nothing of the map, whose values are"),
        ({"threshold": -1.0}, "threshold -1 leaves all or nothing of the map, whose values are"),
        ({"threshold": float("nan")}, "threshold nan leaves"),
        ({"threshold": 0.4, "mass_kda": 3.0}, "threshold and mass_kda exclude each other"),
        ({"enclosed_angstrom3": 1e9}, "the box has 3.277e"),
        ({"mass_kda": 1e-6}, "mass_kda 1e-06 is"),
        ({"threshold": 0.4, "edge_angstrom": -1.0}, "edge_angstrom must be 0 or more"),
    ],
)
def test_masks_that_cannot_be_are_refused(options, expected):
    with pytest.raises(ArgumentError, match=expected):
        blobs(32, 10.0).mask(**options)


# The commands


@pytest.fixture
def map_path(tmp_path):
    path = tmp_path / "in.mrc"
    gonio.write_volume(path, blobs(32, 10.0))
    with mrcfile.open(path, "r+") as file:
        file.header.origin = (100.0, -50.0, 20.0)
    return path


def header(path):
    with mrcfile.open(path) as file:
        origin = file.header.origin
        return float(file.voxel_size.x), np.array([origin.x, origin.y, origin.z]), file.data.shape


@pytest.mark.parametrize("box", [24, 25, 40])
def test_map_keeps_what_it_shows_where_it_is(map_path, tmp_path, box):
    out = tmp_path / "out.mrc"
    assert run(["map", str(map_path), "--voxel-size", "8", "--box", str(box), "-o", str(out)]) == 0
    size, origin, shape = header(out)
    assert shape == (box,) * 3 and size == pytest.approx(8.0)
    # The centre voxel, index 16 of voxels of 10 A, is at the same place as index box // 2 of voxels of 8 A.
    np.testing.assert_allclose(origin + box // 2 * 8.0, np.array([100.0, -50.0, 20.0]) + 160.0, atol=1e-3)
    np.testing.assert_allclose(gonio.read_volume(out).data, blobs(box, 8.0).data, atol=6e-3)


def test_map_reads_the_origin_of_older_headers(map_path, tmp_path):
    with mrcfile.open(map_path, "r+") as file:
        file.header.origin = (0.0, 0.0, 0.0)
        file.header.nxstart, file.header.nystart, file.header.nzstart = -16, -16, -10
    jobs.map_(map_path, box=16, output=tmp_path / "out.mrc")
    np.testing.assert_allclose(header(tmp_path / "out.mrc")[1], [-80.0, -80.0, -20.0])


def test_map_does_all_in_the_order_it_says(map_path, tmp_path, capsys):
    steps = "--mirror --rotate 20 70 -35 --shift 11 -6 15 --voxel-size 9 --box 44 --invert"
    words = ["map", str(map_path), *steps.split(), "-o", f"{tmp_path}/out.mrc"]
    assert run(words) == 0
    pose = Pose.from_euler_zyz_deg([20, 70, -35], [11, -6, 15])
    made, expected = gonio.read_volume(tmp_path / "out.mrc"), blobs(44, 9.0, pose, hand=-1.0)
    np.testing.assert_allclose(made.data, -expected.data, atol=6e-3)
    assert "44 voxels of 9 angstrom, mirrored in x, moved, resampled from 10 A, inverted" in capsys.readouterr().out


def test_map_pads_what_is_no_cube(tmp_path, capsys):
    data = blobs(32, 10.0).data[4:26, :, 3:]
    with mrcfile.new(tmp_path / "in.mrc") as file:
        file.set_data(data)
        file.voxel_size = 10.0
    assert run(["map", f"{tmp_path}/in.mrc", "-o", f"{tmp_path}/out.mrc"]) == 0
    assert "is no cube (29 x 32 x 22 voxels): padded to 32" in capsys.readouterr().err
    size, origin, shape = header(tmp_path / "out.mrc")
    made = gonio.read_volume(tmp_path / "out.mrc").data
    low = np.rint(-origin / size).astype(int)  # the first voxel of what was there
    inner = made[low[2] : low[2] + 22, low[1] : low[1] + 32, low[0] : low[0] + 29]
    np.testing.assert_array_equal(inner, data)
    assert shape == (32, 32, 32)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--box", "4"], "--box"),
        (["--resolution", "12"], "--resolution 12 is finer than two voxels"),
        (["--assembly", "1"], "--assembly is for structures, and"),
        (["--voxel-size", "0"], "must be a positive number"),
        (["--voxel-size", "90"], "at least 8 are needed"),
        (["--rotate", "nan", "0", "0"], "--rotate must be three numbers"),
    ],
)
def test_map_refuses_in_one_line_and_writes_nothing(map_path, tmp_path, capsys, words, expected):
    out = tmp_path / "out.mrc"
    assert run(["map", str(map_path), *words, "-o", str(out)]) == 2
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_map_needs_a_size_for_structures_and_for_headers_without_one(map_path, tmp_path, capsys):
    (tmp_path / "one.pdb").write_text(
        "ATOM      1  CA  ALA A   1      11.104   6.134  -6.504  1.00  0.00           C\n"
    )
    assert run(["map", f"{tmp_path}/one.pdb", "--box", "16", "-o", f"{tmp_path}/out.mrc"]) == 2
    assert "is a structure: give --voxel-size and --box of the map" in capsys.readouterr().err
    with mrcfile.open(map_path, "r+") as file:
        file.voxel_size = 0.0
    assert run(["map", str(map_path), "--voxel-size", "5", "-o", f"{tmp_path}/out.mrc"]) == 2
    assert "--input-voxel-size" in capsys.readouterr().err
    (tmp_path / "cut.mrc").write_bytes(map_path.read_bytes()[:5000])
    assert run(["map", f"{tmp_path}/cut.mrc", "-o", f"{tmp_path}/out.mrc"]) == 2
    assert "cut.mrc" in capsys.readouterr().err
    (tmp_path / "empty.mrc").write_bytes(b"")
    assert run(["map", f"{tmp_path}/empty.mrc", "--box", "9", "--voxel-size", "5", "-o", f"{tmp_path}/out.mrc"]) == 2
    assert "empty.mrc" in capsys.readouterr().err


def test_mask_writes_a_mask_where_the_map_is(map_path, tmp_path, capsys):
    out = tmp_path / "mask.mrc"
    assert run(["mask", str(map_path), "--mass", "100", "--wider", "10", "--edge", "20", "-o", str(out)]) == 0
    assert "kDa of protein" in capsys.readouterr().out
    np.testing.assert_allclose(header(out)[1], [100.0, -50.0, 20.0])
    expected = gonio.read_volume(map_path).mask(mass_kda=100.0, wider_angstrom=10.0, edge_angstrom=20.0)
    np.testing.assert_array_equal(gonio.read_volume(out).data, expected.data)
    assert (tmp_path / "mask.settings.toml").exists()
    assert run(["mask", str(map_path), "--mass", "900", "-o", f"{tmp_path}/wide.mrc"]) == 0
    assert "reaches the faces of the box" in capsys.readouterr().err
    assert run(["mask", str(map_path), "--threshold", "0.4", "--mass", "9", "-o", f"{tmp_path}/no.mrc"]) == 2
    assert "--threshold and --mass exclude each other" in capsys.readouterr().err


def test_a_voxel_size_rounded_to_single_precision_is_the_same(tmp_path):
    volume = blobs(32, 4.3)
    rounded = float(np.float32(4.3))
    assert volume.resampled(rounded) is volume
    np.testing.assert_array_equal(volume.resampled(rounded, box=24).data, volume.cropped(24).data)
    gonio.write_volume(tmp_path / "a.mrc", volume)
    made = jobs.map_(tmp_path / "a.mrc", voxel_size_angstrom=4.3, output=tmp_path / "b.mrc")
    assert made.did == () and np.array_equal(made.volume.data, volume.data)
