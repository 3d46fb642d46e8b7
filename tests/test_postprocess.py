"""Post-processing: against a literal oracle, against RELION where it is, and known falls of amplitudes and signal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.fft

import gonio
from gonio import jobs
from gonio.averaging.resolution import half_map_fsc
from gonio.averaging.sharpening import figure_of_merit, fit_bfactor, guinier_plot, sharpened
from gonio.cli.app import run
from gonio.fourier.fsc import half_radius
from gonio.jobs.map_quality import postprocessed
from gonio.particle.volume import Volume, soft_sphere

SCRIPT = Path(__file__).parents[1] / "experiments" / "postprocess" / "run.py"
BOX, VOXEL = 36, 2.0


def falling(bfactor: float, noise: float, rng: np.random.Generator, *, box: int = BOX) -> tuple[Volume, Volume]:
    """Half maps of a ball of random density whose amplitudes fall off by a B-factor, each with noise of its own."""
    ball = rng.normal(size=(box,) * 3) * soft_sphere(box, radius_px=0.3 * box, edge_px=4)
    squared = (half_radius(box) / (box * VOXEL)) ** 2
    signal = scipy.fft.irfftn(scipy.fft.rfftn(ball) * np.exp(bfactor / 4 * squared), ball.shape)
    signal /= signal.std()
    one, two = (Volume(signal + noise * rng.normal(size=signal.shape), VOXEL) for _ in range(2))
    return one, two


def write_halves(folder: Path, halves: tuple[Volume, Volume]) -> list[str]:
    paths = [str(folder / f"half{i}.mrc") for i in (1, 2)]
    for path, half in zip(paths, halves, strict=True):
        gonio.write_volume(path, half)
    return paths


# A literal oracle: every frequency of the full transform, one after the other


def samples(volume: Volume) -> dict[tuple[int, int, int], complex]:
    """Samples of the full transform by frequency zyx, each axis from -n/2 to n/2 - 1 (odd boxes: (n - 1)/2)."""
    n = volume.box
    spectrum = np.fft.fftn(volume.data.astype(np.float64))
    of = [i if i < (n + 1) // 2 else i - n for i in range(n)]
    return {(of[i], of[j], of[k]): spectrum[i, j, k] for i, j, k in product(range(n), repeat=3)}


def shell_of(frequency: tuple[int, int, int]) -> int:
    return int(np.floor(np.sqrt(sum(x * x for x in frequency)) + 0.5))


def oracle_fsc(one: Volume, two: Volume) -> list[float]:
    first, second = samples(one), samples(two)
    fsc = [1.0]
    for s in range(1, one.box // 2 + 1):
        inside = [k for k in first if shell_of(k) == s]
        cross = sum(first[k] * np.conj(second[k]) for k in inside).real
        fsc.append(cross / np.sqrt(sum(abs(first[k]) ** 2 for k in inside) * sum(abs(second[k]) ** 2 for k in inside)))
    return fsc


def oracle_sharpened(volume: Volume, fsc: list[float], bfactor: float) -> np.ndarray:
    """Each sample times its weight, and the sum of plane waves by the full inverse transform."""
    n, length = volume.box, volume.box * volume.voxel_size_angstrom
    end = next((s for s in range(1, len(fsc)) if fsc[s] <= 0), len(fsc))
    spectrum = np.zeros((n, n, n), complex)
    for k, value in samples(volume).items():
        s = shell_of(k)
        if s < end:
            merit = np.sqrt(2 * min(fsc[s], 1.0) / (1 + min(fsc[s], 1.0)))
            spectrum[k] = value * merit * np.exp(-bfactor / 4 * sum(x * x for x in k) / length**2)
    return np.fft.ifftn(spectrum).real


@pytest.mark.parametrize("box", [11, 12])
def test_fsc_merit_and_sharpening_are_the_literal_ones(rng, box):
    one, two = falling(-40.0, 0.5, rng, box=box)
    mask = Volume(soft_sphere(box, radius_px=3, edge_px=2), VOXEL)
    solvent = 1.0 - mask.data
    told = half_map_fsc((one, two), mask=mask, rng=rng)
    np.testing.assert_allclose(told.unmasked, oracle_fsc(one, two), atol=1e-6)
    masked = [Volume((h.data - np.average(h.data, weights=solvent)) * mask.data, VOXEL) for h in (one, two)]
    np.testing.assert_allclose(told.masked, oracle_fsc(*masked), atol=1e-5)
    fsc = oracle_fsc(one, two)
    fsc[-2] = -0.1  # nothing beyond counts
    result = sharpened(one, np.array(fsc), bfactor=-90.0)
    expected = oracle_sharpened(one, fsc, -90.0)
    np.testing.assert_allclose(result.data, expected, atol=1e-5 * np.abs(expected).max())


def test_the_guinier_plot_is_the_mean_amplitude_of_each_shell(rng):
    one, two = falling(-40.0, 0.5, rng, box=12)
    fsc = np.array(oracle_fsc(one, two))
    plot = guinier_plot(one, fsc)
    means = [np.mean([abs(v) for k, v in samples(one).items() if shell_of(k) == s]) for s in range(7)]
    np.testing.assert_allclose(plot.amplitude, means, rtol=1e-6)
    np.testing.assert_allclose(plot.weighted, means * figure_of_merit(fsc), rtol=1e-6)
    np.testing.assert_allclose(plot.per_angstrom, np.arange(7) / 24.0)


def test_random_phases_begin_where_it_is_asked(rng):
    halves, mask = falling(-40.0, 0.3, rng), Volume(soft_sphere(BOX, radius_px=12, edge_px=3), VOXEL)
    told = half_map_fsc(halves, mask=mask, rng=rng, random_from_angstrom=BOX * VOXEL / 7)
    assert told.random_from == 7
    np.testing.assert_allclose(told.randomised[1:6], told.masked[1:6], atol=0.02)
    assert np.abs(told.randomised[10:]).max() < 0.2 < told.masked[10]
    np.testing.assert_array_equal(told.corrected[:9], told.masked[:9])
    of_mask = np.clip(told.randomised[9:], 0, None)
    np.testing.assert_allclose(told.corrected[9:], (told.masked[9:] - of_mask) / (1 - of_mask), rtol=1e-6)
    with pytest.raises(ValueError, match="is not between one shell of the box, 72 angstrom, and two voxels, 4"):
        half_map_fsc(halves, mask=mask, rng=rng, random_from_angstrom=3.0)


@pytest.mark.parametrize("bfactor", [-60.0, -150.0])
def test_the_fall_of_amplitudes_is_found_and_undone(rng, bfactor):
    """Within four standard errors of the fit, and after sharpening it is level."""
    halves = falling(bfactor, 0.02, rng)
    volume = Volume(0.5 * (halves[0].data + halves[1].data), VOXEL)
    mask = Volume(soft_sphere(BOX, radius_px=15, edge_px=3), VOXEL)
    found = postprocessed(volume, halves, mask=mask)
    assert found.fit.bfactor == pytest.approx(bfactor, abs=4 * found.fit.sd + 0.03 * abs(bfactor))
    assert found.fit.sd < 0.1 * abs(bfactor)
    level = guinier_plot(found.sharpened, np.ones(BOX // 2 + 1))
    again = fit_bfactor(level, coarsest_angstrom=found.fit.coarsest_angstrom, finest_angstrom=found.fit.finest_angstrom)
    assert again.bfactor == pytest.approx(0.0, abs=0.01 * abs(bfactor))  # a shell is one wide


def test_what_is_given_is_applied_and_what_cannot_be_fitted_is_said(rng):
    halves = falling(-60.0, 1.0, rng)
    coarse = tuple(Volume(half.data, 8.0) for half in halves)
    mask = Volume(soft_sphere(BOX, radius_px=15, edge_px=3), 8.0)
    found = postprocessed(coarse[0], coarse, mask=mask)
    assert (found.fit, found.bfactor) == (None, 0.0)
    assert found.rows[0][2].startswith("too few shells between 10 angstrom and the resolution")
    asked = jobs.SharpeningOptions(bfactor=-300.0)
    found = postprocessed(coarse[0], coarse, mask=mask, sharpening=asked)
    assert found.bfactor == -300.0
    with pytest.raises(ValueError, match=r"between 17 and 16 angstrom .* fewer than 5 shells"):
        postprocessed(coarse[0], coarse, mask=mask, sharpening=jobs.SharpeningOptions(None, (17.0, 16.0)))


def test_amplitudes_that_rise_are_not_blurred(rng):
    halves = falling(+30.0, 0.02, rng)
    found = postprocessed(halves[0], halves, mask=Volume(soft_sphere(BOX, radius_px=15, edge_px=3), VOXEL))
    assert found.fit.bfactor > 0 and found.bfactor == 0.0


# The command


def test_the_command_writes_maps_curves_and_a_page(tmp_path, rng, capsys):
    words = ["postprocess", *write_halves(tmp_path, falling(-60.0, 0.3, rng)), "-o", str(tmp_path / "out")]
    assert run(words) == 0
    assert "B-factor" in capsys.readouterr().out
    out = tmp_path / "out"
    told = json.loads((out / "summary.json").read_text())
    assert told["bfactor"] == told["bfactor_fit"]["bfactor"] < 0
    assert "Guinier plot" in (out / "report.html").read_text()
    assert (out / "guinier.csv").read_text().startswith("per_angstrom,mean_amplitude,times_figure_of_merit\n0.000000,")
    assert len((out / "fsc.csv").read_text().splitlines()) == BOX // 2 + 2
    assert (out / "mask.mrc").exists() and (out / "settings.toml").exists()
    before = gonio.read_volume(out / "sharpened.mrc").data
    assert run([*words, "--overwrite", "--bfactor", "0"]) == 0
    assert gonio.read_volume(out / "sharpened.mrc").data.std() < before.std()
    assert run(words) == 2
    assert "is not empty" in capsys.readouterr().err


def test_halves_of_nothing_are_said_to_be(tmp_path, rng, capsys):
    halves = tuple(Volume(rng.normal(size=(20,) * 3), VOXEL) for _ in range(2))
    one, two = write_halves(tmp_path, (halves[0], Volume(-halves[0].data + 0.1 * halves[1].data, VOXEL)))
    assert run(["postprocess", one, two, "-o", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "agree in no shell" in told.err and "worse than 40 angstrom" in told.out
    assert not (tmp_path / "out" / "local_resolution.mrc").exists()  # the box is too small


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), [], "half2.mrc"),
        (lambda p: gonio.write_volume(p, Volume(np.eye(20)[None] + np.zeros((20, 1, 1)), VOXEL)), [], "a box of 20"),
        (lambda p: shutil.copy(p.with_name("half1.mrc"), p), [], "equals the other half map"),
        (lambda p: gonio.write_volume(p, Volume(np.ones((BOX,) * 3), VOXEL)), [], "is constant"),
        (
            lambda p: gonio.write_volume(p, Volume(gonio.read_volume(p).data, 3.0)),
            [],
            "voxels of 3 angstrom, the first half map 2",
        ),
        (lambda p: None, ["--bfactor", "nan"], "--bfactor"),
        (lambda p: None, ["--fit-range", "4", "9"], "--fit-range is the coarser"),
        (lambda p: None, ["--random-from", "1"], "--random-from"),
        (lambda p: None, ["--mask", "MISSING"], "MISSING"),
        (lambda p: p.unlink(), [], "half2.mrc"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(tmp_path, rng, capsys, spoil, words, message):
    paths = write_halves(tmp_path, falling(-60.0, 0.3, rng))
    spoil(Path(paths[1]))
    assert run(["postprocess", *paths, "-o", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("relion_postprocess"), reason="RELION is not installed")
def test_curves_bfactor_and_map_are_those_of_relion(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert max(told["largest_difference"][name] for name in ("unmasked", "masked")) < 0.02
    # Up to where phases are random nothing scatters; beyond, one draw of RELION's and the mean of gonio's do.
    assert told["below_random"]["corrected"] < 0.02
    assert max(told["in_sd_of_a_draw"].values()) < 5.0
    assert told["bfactor"]["gonio"] == pytest.approx(told["bfactor"]["relion"], rel=0.1)
    assert told["correlation_of_sharpened"] > 0.99
    assert told["rms_ratio_of_sharpened"] == pytest.approx(1.0, abs=0.05)
