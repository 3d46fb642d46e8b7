"""Mistakes are told before anything is done: a table of commands and mistakes, and none of them for what is right."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from gonio.cli.app import run
from gonio.io import read_particles, read_volume, write_volume
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume, soft_sphere
from gonio.simulate import Imaging, Phantom, simulate_subtomogram, simulate_tilt_stack
from gonio.workflows import checks

BOX, VOXEL, COUNT = 20, 16.0, 6
SHARED = Path(__file__).parents[2] / "shared" / "data"
# Where each command would begin its work.
BEGINS = {"align": "running", "refine": "running", "classify": "running", "average": "average_list", "pair": "_Fitting"}


class Begun(ValueError):
    """Raised where a command would begin its work."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Particles as they should be, and what is wrong beside them."""
    folder = tmp_path_factory.mktemp("data")
    words = f"simulate {folder}/sim --phantom sharp --count {COUNT} --box {BOX} --voxel-size {VOXEL} --snr 1 --seed 3"
    assert run(words.split()) == 0
    map_ = read_volume(folder / "sim" / "reference.mrc")
    write_volume(folder / "map.mrc", map_)
    write_volume(folder / "dark.mrc", replace(map_, data=-map_.data))
    write_volume(folder / "other_voxels.mrc", Volume(map_.data, 10.0))
    mask = soft_sphere(BOX, radius_px=6.0, edge_px=3.0)
    write_volume(folder / "mask.mrc", Volume(mask, VOXEL))
    write_volume(folder / "mask_of_other_voxels.mrc", Volume(mask, 10.0))
    write_volume(folder / "map_as_mask.mrc", Volume(np.maximum(map_.data / map_.data.max(), 0.0), VOXEL))
    wave = np.sin(np.arange(BOX))
    write_volume(folder / "waves_as_mask.mrc", Volume(3.0 * wave[:, None, None] * wave[:, None] * wave, VOXEL))
    write_volume(folder / "particle.mrc", read_particles(folder / "sim" / "truth.star").load(0).volume)
    return folder


@pytest.fixture
def told(data, monkeypatch, capsys):
    """Run a command until it begins its work; the lines that it has said by then, without that it begins."""

    def begin(*_: object, **__: object) -> None:
        raise Begun("begins")

    def told(line: str) -> list[str]:
        command = line.split()[0]
        monkeypatch.setattr(import_module(f"gonio.jobs.{command}"), BEGINS[command], begin)
        capsys.readouterr()
        assert run(line.format(d=data, o=data / "out").split()) == 2
        lines = capsys.readouterr().err.splitlines()
        return [one for one in lines if one != "gonio: error: begins"]

    return told


LIST, TRUTH = "{d}/sim/particles.star", "{d}/sim/truth.star"
RIGHT = {
    "align": f"align {LIST} --reference {{d}}/map.mrc --mask {{d}}/mask.mrc -o {{o}}",
    "align --local": f"align {TRUTH} --reference {{d}}/map.mrc --local -o {{o}}",
    "refine": f"refine {LIST} --reference {{d}}/map.mrc --mask {{d}}/mask.mrc --overlap 10 -o {{o}}",
    "refine --local": f"refine {TRUTH} --local --overlap 10 -o {{o}}",
    "classify": f"classify {LIST} --reference {{d}}/map.mrc -o {{o}}",
    "classify --local": f"classify {TRUTH} --local --classes 2 -o {{o}}",
    "average": f"average {TRUTH} --mask {{d}}/mask.mrc -o {{o}}.mrc",
    "pair": "pair {d}/particle.mrc {d}/map.mrc --tilt-range-a -60 60 --mask {d}/mask.mrc",
}
DARK, VOXELS = ("dark where", "bright"), ("is now 20 voxels of", "as the particles: it was")
MASK, PLATEAU = ("a mask holds values from 0 to 1",), ("mask has no plateau",)
FINE, COARSE = (
    ("--resolution", "finer than two voxels"),
    ("resolution is too coarse: a box of 20", "use a larger box or a finer limit"),
)
POSES, SYMMETRY = ("no poses", "one orientation"), ("does not have the symmetry C4",)
# Command of RIGHT, what is replaced in it, by what, and what must be said.
WRONG = [
    *((name, "map.mrc", "dark.mrc", DARK) for name in ("align", "align --local", "refine", "classify", "pair")),
    *((name, "map.mrc", "other_voxels.mrc", VOXELS) for name in ("align", "refine", "classify")),
    *((name, "mask.mrc", "mask_of_other_voxels.mrc", VOXELS) for name in ("align", "refine", "average")),
    *((name, "mask.mrc", "waves_as_mask.mrc", MASK) for name in ("align", "refine", "average", "pair")),
    *((name, "mask.mrc", "map_as_mask.mrc", PLATEAU) for name in ("align", "refine", "average", "pair")),
    *((name, "truth.star", "particles.star", POSES) for name in ("align --local", "refine --local", "average")),
    ("classify --local", "truth.star", "particles.star", POSES),
    *((name, "map.mrc", "map.mrc --symmetry C4", SYMMETRY) for name in ("align", "refine", "pair")),
    *((name, "map.mrc", "map.mrc --resolution 20", FINE) for name in ("align", "refine", "classify", "pair")),
    *((name, "map.mrc", "map.mrc --resolution 4000", COARSE) for name in ("align", "refine", "classify", "pair")),
    ("refine --local", "--local", "--local --resolution 4000", COARSE),
    ("refine", "map.mrc", "map.mrc --start-resolution 20", ("--start-resolution", "finer than two voxels")),
    ("refine", "map.mrc", "map.mrc --start-resolution 4000", COARSE),
]


@pytest.mark.parametrize("command", RIGHT)
def test_what_is_right_is_not_complained_about(told, command):
    assert told(RIGHT[command]) == []


@pytest.mark.parametrize(("command", "right", "wrong", "words"), WRONG)
def test_a_mistake_is_told_once(told, command, right, wrong, words):
    line = RIGHT[command].replace(f"/{right}" if "." in right else right, f"/{wrong}" if "." in right else wrong)
    lines = told(line)
    assert len(lines) == 1, lines
    assert lines[0].startswith(("gonio: warning: ", "gonio: error: "))
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(("command", "more"), [("align", ""), ("refine", " --split --iterations 1"), ("classify", "")])
def test_a_warning_reaches_the_report(data, tmp_path, command, more):
    line = RIGHT[command].replace("map.mrc", "dark.mrc").format(d=data, o=tmp_path / "out") + more
    assert run(line.split()) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(word in page for word in (*DARK, "pass --invert"))


def test_python_has_the_warnings_as_values(data):
    table, dark = read_particles(data / "sim" / "particles.star"), read_volume(data / "dark.mrc")
    names = [one.name for one in checks.warnings_of_list(table, {"the map": dark}, poses_for="an average")]
    assert names == ["no orientations", "opposite contrast"]


def simulated(name: str, snr: float, count: int) -> tuple[Volume, list[Subtomogram]]:
    phantom = Phantom.named(name, box=BOX, voxel_size_angstrom=VOXEL)
    imaging = Imaging(snr=snr, tilt_step_deg=6.0)
    poses = Pose.random(count, rng=np.random.default_rng(1), max_shift_angstrom=2 * VOXEL)
    made = [
        simulate_subtomogram(phantom, poses[i], imaging=imaging, rng=np.random.default_rng(i)) for i in range(count)
    ]
    return Volume(phantom.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL), made


def contrast(particles, map_):
    return checks.opposite_contrast(particles, map_, name="the map", remedy="")


@pytest.mark.parametrize("name", ["sharp", "pseudo_symmetric", "four_gaussians"])
@pytest.mark.parametrize("snr", [1.0, 0.01])
def test_contrast_is_known_without_poses_under_any_noise(name, snr):
    map_, particles = simulated(name, snr, 20)
    assert contrast(particles, map_) is None
    assert contrast(particles, replace(map_, data=map_.data + 50 * map_.data.std())) is None
    dark = replace(map_, data=-map_.data)
    if snr == 1.0:
        assert contrast(particles, dark).name == "opposite contrast"


def test_contrast_of_tilt_images_is_that_of_their_transfer():
    phantom = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)
    imaging, rng = Imaging(snr=0.5, tilt_step_deg=12.0), np.random.default_rng(0)
    stacks = [simulate_tilt_stack(phantom, Pose.random(1, rng=rng)[0], imaging=imaging, rng=rng) for _ in range(8)]
    map_ = simulated("sharp", 1.0, 0)[0]
    assert contrast(stacks, map_) is None
    assert contrast([replace(one, images=-one.images) for one in stacks], map_) is not None


def ring(count: int, *, noise: float = 0.0) -> Volume:
    """A ring of so many pieces about z, each without symmetry, under noise of so many of its standard deviations."""
    piece = Phantom.named("sharp", box=12, voxel_size_angstrom=VOXEL).unframed()
    turns = [np.degrees(2 * np.pi * i / count) for i in range(count)]
    from scipy.spatial.transform import Rotation

    data = sum(
        piece.density(
            Pose(Rotation.from_euler("z", turn, degrees=True), np.zeros(3)) @ Pose(Rotation.identity(), [64.0, 0, 0]),
            box=BOX,
            voxel_size_angstrom=VOXEL,
        )
        for turn in turns
    )
    return Volume(data + noise * data.std() * np.random.default_rng(0).normal(size=data.shape), VOXEL)


@pytest.mark.parametrize("resolution", [64.0, 100.0])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_map_of_a_symmetry_is_not_doubted(resolution, noise):
    judged = {"resolution_angstrom": resolution, "diameter_angstrom": None}
    assert checks.without_the_symmetry(ring(4, noise=noise), "C4", **judged) is None
    assert checks.without_the_symmetry(ring(4, noise=noise), "C2", **judged) is None
    assert checks.without_the_symmetry(ring(3, noise=noise), "C4", **judged) is not None


REAL = SHARED / "empiar10499"


@pytest.mark.skipif(not REAL.is_dir(), reason="shared/data/empiar10499 is not here")
def test_real_ribosomes_are_as_bright_as_their_average():
    from gonio.averaging.averages import average

    table = read_particles(REAL / "particles.star")
    particles = list(table.particles())
    map_ = average(iter(particles), table.poses).volume
    assert contrast(particles, map_) is None
    assert contrast(particles, replace(map_, data=-map_.data)) is not None
