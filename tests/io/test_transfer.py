"""What each tilt image of a particle has been through is what RELION's and Warp's formulas say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio.averaging.averages import average
from gonio.cli.app import run
from gonio.fourier.fsc import fourier_shell_correlation
from gonio.fourier.spectrum import image_samples
from gonio.io import FormatError, read_particles
from gonio.particle.ctf import Ctf
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume, soft_sphere
from gonio.simulate import Imaging, Phantom, simulate_tilt_stack

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[3] / "shared" / "data"
TILTS = np.array([-60.0, 0.0, 60.0])
VOXEL, BOX = 4.0, 32
# Of the tomogram of the lists below: pixels, and their size.
SIZE, SERIES_PIXEL = np.array([4000, 3600, 1000]), 1.25
# Files hold six decimals of an angstrom.
DECIMALS = 1e-5


def matrices():
    """Of tilts about an axis that is no axis of the image: RELION's P = Rz Ry, shape (t, 3, 3)."""
    return Rotation.from_euler("yz", np.stack([TILTS, np.full(3, 85.0)], axis=1), degrees=True).as_matrix()


def write_list(folder, places, *, name="T1", hand=-1, extra=(), columns=(), warp=False, turns=None, stacks=None):
    """A list of stacks at places from the tomogram's centre, as RELION 5 (angstrom) or WarpTools (pixels) has it.

    ``extra`` are labels and values of the tomogram, ``columns`` of each of its tilts.
    """
    p = matrices() if turns is None else turns
    head = {"rlnTomoName": name, "rlnTomoHand": hand, "rlnTomoTiltSeriesPixelSize": SERIES_PIXEL}
    head |= dict(zip(("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"), SIZE.tolist(), strict=True)) | dict(extra)
    tilts = {f"rlnTomoProj{axis}": ["[" + ",".join(f"{v:.12f}" for v in (*m[i], 0)) + "]" for m in p]
             for i, axis in enumerate("XYZ")}  # fmt: skip
    tilts |= {"rlnDefocusU": [31000, 30000, 29000], "rlnDefocusV": [29000, 28500, 28000]}
    tilts |= {"rlnDefocusAngle": [20, 50, 110], "rlnMicrographPreExposure": [60, 0, 30]} | dict(columns)
    write_blocks(folder / "tomograms.star", {"global": {k: [v] for k, v in head.items()}, name: tilts})
    centred = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
    pixels = [f"rlnCoordinate{axis}" for axis in "XYZ"]
    where = (np.asarray(places) + 0.5 * SIZE * SERIES_PIXEL) / VOXEL if warp else np.asarray(places)
    rows = {"rlnTomoName": [name] * len(places), "rlnTomoParticleName": [f"{name}/{i}" for i in range(len(places))]}
    rows |= {k: [f"{v:.6f}" for v in where[:, i]] for i, k in enumerate(pixels if warp else centred)}
    rows |= {"rlnImageName": [f"{i}.mrcs" for i in range(len(places))], "rlnOpticsGroup": [1] * len(places)}
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [VOXEL], "rlnTomoTiltSeriesPixelSize": [SERIES_PIXEL]}
    optics |= {"rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1]}
    optics |= {"rlnCtfDataAreCtfPremultiplied": [0]}
    general = {"rlnTomoSubTomosAre2DStacks": [1]}
    write_blocks(folder / "particles.star", {"general": general, "optics": optics, "particles": rows})
    if stacks is None:
        stacks = [np.random.default_rng(0).normal(size=(len(p), BOX, BOX))] * len(places)
    for i, images in enumerate(stacks):
        with mrcfile.new(folder / f"{i}.mrcs", overwrite=True) as mrc:
            mrc.set_data(images.astype(np.float32))
            mrc.voxel_size = VOXEL
    return folder / "particles.star"


def write_blocks(path, blocks):
    """STAR blocks of columns by label."""
    lines = []
    for name, columns in blocks.items():
        lines += [f"data_{name}", "", "loop_", *(f"_{label}" for label in columns)]
        lines += ["\t".join(map(str, row)) for row in zip(*columns.values(), strict=True)] + [""]
    path.write_text("\n".join(lines))


def relions(k, u, v, angle, *, voltage=300.0, cs=2.7, q0=0.1, plate=0.0, b=0.0):
    """CTF::getCTF of RELION's src/ctf.h at frequencies (s, 2), with its own names, written out here."""
    volts = 1e3 * voltage
    wavelength = 12.2643247 / np.sqrt(volts * (1.0 + volts * 0.978466e-6))
    k1, k2 = np.pi * wavelength, 0.5 * np.pi * 1e7 * cs * wavelength**3
    k3, k4, k5 = np.arctan(q0 / np.sqrt(1 - q0**2)), -b / 4, np.radians(plate)
    x, y = k.T
    along = np.arctan2(y, x) - np.radians(angle)
    deltaf = -(u + v) * 0.5 - (u - v) * 0.5 * np.cos(2 * along)
    u2 = x**2 + y**2
    return -np.sin(k1 * deltaf * u2 + k2 * u2**2 - k5 - k3) * np.exp(k4 * u2)


def somewhere(seed=0):
    """Frequencies of an image, out to its corners."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (200, 2)) / VOXEL


@pytest.mark.parametrize("plate", [0.0, 60.0, 90.0])
@pytest.mark.parametrize("b", [0.0, 150.0])
def test_the_transfer_of_an_image_is_relions(plate, b):
    k = somewhere()
    own = Ctf(31000.0, 29000.0, 20.0, 300.0, 2.7, 0.1, phase_shift_deg=plate, bfactor_angstrom2=b).transfer(k)
    # The constant of the wavelength has six digits in one, nine in the other; phases reach 150 radians.
    assert np.abs(own - relions(k, 31000, 29000, 20, plate=plate, b=b)).max() < 1e-3


HEIGHT, SIDE = 1500.0, 2500.0


@pytest.mark.parametrize("hand", [1, -1])
@pytest.mark.parametrize("slope", [None, 0.8])
def test_relion_signs_depth_by_the_hand(tmp_path, hand, slope):
    """dz = hand slope (P (position - centre))_z: high and beside the axis, at -60, 0 and +60 degrees."""
    extra = {} if slope is None else {"rlnTomoDefocusSlope": slope}
    table = read_particles(write_list(tmp_path, [[0, 0, HEIGHT], [SIDE, 0, 0]], hand=hand, extra=extra))
    high, beside = (table.load(i).ctf.defocus_u_angstrom - [31000, 30000, 29000] for i in range(2))
    sign, sine = hand * (slope or 1.0), np.sin(np.radians(60.0))
    assert np.abs(high - sign * HEIGHT * np.array([0.5, 1.0, 0.5])).max() < DECIMALS
    # 250 nm beside the axis are 217 nm of defocus at 60 degrees; Ry(60) has (-sin 60, 0, cos 60) in its third row.
    assert np.abs(beside - sign * SIDE * np.array([sine, 0.0, -sine])).max() < DECIMALS
    v = table.load(1).ctf.defocus_v_angstrom - [29000, 28500, 28000]
    assert np.abs(v - beside).max() < DECIMALS  # astigmatism stays


def warps(place):
    """By how much Warp's defocus differs, GetPositionInAllTilts for angles that are not inverted: + (M place)_z."""
    return matrices()[:, 2] @ place


def test_warptools_adds_depth_where_it_writes_hand_minus_one(tmp_path):
    places = [[0, 0, HEIGHT], [SIDE, -900.0, -HEIGHT]]
    table = read_particles(write_list(tmp_path, places, name="TS_1.tomostar", hand=-1, warp=True))
    for i, place in enumerate(places):
        more = table.load(i).ctf.defocus_u_angstrom - [31000, 30000, 29000]
        assert np.abs(more - warps(place)).max() < DECIMALS


@pytest.mark.parametrize("name", ["TS_1", "TS_1.tomostar"])
def test_whose_hand_it_is_can_be_said_and_is_recorded(tmp_path, name):
    path = write_list(tmp_path, [[0, 0, HEIGHT]], name=name, hand=1, warp=name.endswith("r"))
    listed = np.array([31000, 30000, 29000])
    middle = {
        program: (read_particles(path, defocus_hand=program).load(0).ctf.defocus_u_angstrom - listed)[1]
        for program in ("relion", "warp", None)
    }
    by_name = middle["warp" if name.endswith("r") else "relion"]
    assert middle == {"relion": pytest.approx(HEIGHT), "warp": pytest.approx(-HEIGHT), None: by_name}
    words = f"average {path} --defocus-hand warp --no-halves -o {tmp_path}/average.mrc"
    assert run(words.split()) == 0
    assert 'defocus_hand = "warp"' in (tmp_path / "average.settings.toml").read_text()
    assert run(words.replace("warp", "tom").split()) == 2


@pytest.mark.skipif(not (SHARED / "empiar10499").is_dir(), reason="shared/data/empiar10499 is not here")
def test_the_power_of_warptools_images_has_the_sign_that_is_read():
    """Images were multiplied by the CTF at each particle's depth, and so was their noise: its zeros tell the sign."""
    table = read_particles(SHARED / "empiar10499" / "optimisation_set.star")
    fits = dict.fromkeys((1, 0, -1), 0.0)
    for i in range(len(table)):
        stack, series = table.load(i), table.source.series[table.tomograms[i]]
        away = series.defocus_per_depth * series.depths_angstrom(table.source.places_angstrom[i])
        frequency, value, _ = image_samples(stack, 384.0 / 24.3)
        k = frequency / 384.0
        near = np.linalg.norm(k, axis=1) > 1 / 34  # about the first zero, between 34 and 24.3 angstrom
        for sign in fits:
            model = replace(stack, ctf=stack.ctf.refocused((sign - 1) * away)).transfer(k)[stack.used][:, near] ** 2
            power, model = np.abs(value[stack.used][:, near]) ** 2, model + 1e-3
            scale = (power / model).mean(axis=1, keepdims=True)
            fits[sign] -= (np.log(model * scale) + power / (model * scale)).sum()  # exponential in power
    # Measured: 17,200 better than without depth, 57,300 better than with the other sign, of 24,900 samples' logarithms.
    assert fits[1] > fits[0] + 5000
    assert fits[0] > fits[-1] + 5000


def test_a_list_says_envelope_plate_scale_and_decay_of_each_image(tmp_path):
    said = {"rlnPhaseShift": [60, 70, 80], "rlnCtfBfactor": [100, 50, 0], "rlnCtfScalefactor": [0.5, 1.0, 0.7]}
    path = write_list(tmp_path, [[0, 0, 0]], columns=said, extra={"rlnCtfBfactorPerElectronDose": 3.0})
    stack, k = read_particles(path).load(0), somewhere()
    transfer = stack.transfer(k)
    square = (k**2).sum(axis=1)
    defocus = [(31000, 29000, 20), (30000, 28500, 50), (29000, 28000, 110)]
    for i, (lens, dose) in enumerate(zip(defocus, (60, 0, 30), strict=True)):
        one = relions(k, *lens, plate=said["rlnPhaseShift"][i], b=said["rlnCtfBfactor"][i])
        expected = said["rlnCtfScalefactor"][i] * one * np.exp(-3.0 * dose * square / 4)
        assert np.abs(transfer[i] - expected).max() < 1e-3


def test_a_plate_may_be_stated_for_the_whole_tomogram(tmp_path):
    path = write_list(tmp_path, [[0, 0, 0]], extra={"rlnPhaseShift": 65.0})
    assert read_particles(path).load(0).ctf.phase_shift_deg.tolist() == [65.0] * 3


def test_ms_negative_b_factors_damp(tmp_path):
    path = write_list(tmp_path, [[0, 0, 0]], columns={"rlnCtfBfactor": [-100, -50, 0]})
    assert read_particles(path).load(0).ctf.bfactor_angstrom2.tolist() == [100, 50, 0]
    path = write_list(tmp_path, [[0, 0, 0]], columns={"rlnCtfBfactor": [-100, 50, 0]})
    with pytest.raises(FormatError, match="one of them would amplify"):
        read_particles(path)


def test_what_bears_on_images_and_is_not_used_is_told_once(tmp_path):
    path = write_list(tmp_path, [[0, 0, 0]])
    text = path.read_text()
    path.write_text(text.replace("_rlnVoltage", "_rlnBeamTiltX\n_rlnVoltage").replace("\t300\t", "\t0.2\t300\t"))
    with pytest.warns(RuntimeWarning, match="rlnBeamTiltX would change the images and is not used") as told:
        read_particles(path)
    assert len(told) == 1
    path.write_text(text.replace("_rlnVoltage", "_rlnBeamTiltX\n_rlnVoltage").replace("\t300\t", "\t0.0\t300\t"))
    read_particles(path)  # a beam that is not tilted changes nothing


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("4000\t3600\t1000", "-999\t-999\t-999", "it is not known where particles are"),
        ("_rlnTomoHand", "_other", "rlnTomoHand is not stated"),
    ],
)
def test_a_depth_that_is_not_known_is_told(tmp_path, old, new, told):
    path = write_list(tmp_path, [[0, 0, HEIGHT]], warp=True)
    tomograms = tmp_path / "tomograms.star"
    tomograms.write_text(tomograms.read_text().replace(old, new))
    with pytest.warns(RuntimeWarning, match=told):
        table = read_particles(path)
    assert table.load(0).ctf.defocus_u_angstrom.tolist() == [31000, 30000, 29000]


# What it is worth


def beads(rng):
    """40 small Gaussians within 40 angstrom of the centre: signal to 10 angstrom in every direction."""
    centres = rng.standard_normal((40, 3))
    centres *= (40.0 * rng.uniform(0, 1, 40) ** (1 / 3) / np.linalg.norm(centres, axis=1))[:, None]
    return Phantom.from_standard_deviations(np.ones(40), centres, sds_xyz=np.full((40, 3), 3.4))


def agreement(stacks, poses, truth):
    """The last shell before the FSC of an average with the truth falls below 0.5, and its mean from 11.6 to 9.1 A."""
    ball = soft_sphere(BOX, radius_px=13.0, edge_px=3.0)
    made, known = (Volume(v.data * ball, VOXEL) for v in (average(stacks, poses).volume, truth))
    fsc = fourier_shell_correlation(made, known)
    return int(np.argmax(fsc[1:] < 0.5)), float(fsc[11:15].mean())


@pytest.mark.parametrize("plate", [0.0, 90.0])
def test_particles_high_and_low_average_as_with_their_own_ctf(tmp_path, plate):
    """150 nm above and below and up to 250 nm beside the axis, pixels of 4 angstrom, poses known."""
    rng, count = np.random.default_rng(5), 24
    density, lens = beads(rng), Ctf(30000.0, 30000.0, 0.0, 300.0, 2.7, 0.1, phase_shift_deg=plate)
    imaging = Imaging(BOX, VOXEL, -60.0, 60.0, 10.0, ctf=lens, detector_mtf=False, snr=1.0)
    poses = Pose.random(count, rng=rng)
    truth = Volume(density.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL)
    places = np.array([[SIDE * rng.uniform(-1, 1), 0.0, HEIGHT * (-1) ** i] for i in range(count)])
    stacks = [
        simulate_tilt_stack(density, poses[i], imaging=imaging, rng=rng, place_angstrom=places[i]) for i in range(count)
    ]
    turns = Rotation.from_euler("y", imaging.tilts_deg[:, None], degrees=True).as_matrix()
    tilts = len(turns)
    columns = {"rlnDefocusU": [30000] * tilts, "rlnDefocusV": [30000] * tilts, "rlnDefocusAngle": [0] * tilts}
    columns |= {"rlnMicrographPreExposure": [0] * tilts, "rlnPhaseShift": [plate] * tilts}
    images = [one.images for one in stacks]
    listed = list(read_particles(write_list(tmp_path, places, columns=columns, turns=turns, stacks=images)).particles())
    flat = [replace(one, ctf=lens) for one in stacks]
    upside_down = [replace(one, ctf=one.ctf.refocused(2 * (30000.0 - one.ctf.defocus_u_angstrom))) for one in stacks]
    own, read, without, other = (agreement(one, poses, truth) for one in (stacks, listed, flat, upside_down))
    assert abs(read[0] - own[0]) <= 1
    assert abs(read[1] - own[1]) < 0.001
    # Measured without a plate and with one: 0.72 and 0.60; 0.56 and 0.46 without depth; 0.15 and 0.06 upside down.
    assert own[0] > without[0] > other[0]
    assert without[1] < own[1] - 0.1
    assert other[1] < without[1]
