"""gonio postprocess against relion_postprocess on the same half maps and the same mask.

    python experiments/postprocess/run.py [--box 64] [--voxel-size 2] [--bfactor -120] [--noise 1] [--seed 0]
        [--halves HALF1 HALF2 --mask MASK] [--structures DATA/structures] [--out results/postprocess]

Half maps of a structure (octamer of enolase, 1W6T; a phantom where it is missing), whose amplitudes fall off by a
B-factor, each with white noise of its own; or those of ``--halves``. Both programs get the same mask, and fit the
B-factor over the same range. Printed: the largest difference of each curve in any shell (of phases randomised and of
what is corrected by them beside the standard deviation of a draw), B-factors, resolutions, and the agreement of the
sharpened maps up to the resolution: beyond it weights follow the noise of the FSC. ``relion_postprocess`` must be on
the PATH (RELION 3.1; Debian: apt-get install relion). Writes summary.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gemmi
import numpy as np
import scipy.fft

import gonio
from gonio import jobs
from gonio.averaging.resolution import RANDOM_MARGIN, with_random_phases
from gonio.fourier.fsc import fourier_shell_correlation, half_radius
from gonio.fourier.masks import soft_mask
from gonio.fourier.transform import low_passed
from gonio.io import read_volume, write_volume
from gonio.simulate import Phantom, Structure

STRUCTURES = Path(__file__).resolve().parents[3] / "shared" / "data" / "structures"
STRUCTURE = "1w6t.pdb.gz"
FSC = "rlnFourierShellCorrelation"
# gonio's name of a curve, RELION's label.
CURVES = {
    "unmasked": f"{FSC}UnmaskedMaps",
    "masked": f"{FSC}MaskedMaps",
    "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    "corrected": f"{FSC}Corrected",
}
RELION = "relion/postprocess"
DRAWS = 6
FIT_FROM = 10.0


def write_halves(folder: Path, options: argparse.Namespace) -> None:
    """Write two half maps and a mask."""
    box, voxel = options.box, options.voxel_size
    path, identity = options.structures / STRUCTURE, gonio.Pose.identity()
    if path.exists():
        density = Structure.from_file(path, resolution_angstrom=2.0 * voxel)
    else:
        density = Phantom.named("sharp", box=box, voxel_size_angstrom=voxel)
    squared = (half_radius(box) / (box * voxel)) ** 2
    spectrum = scipy.fft.rfftn(density.density(identity, box=box, voxel_size_angstrom=voxel).astype(np.float64))
    signal = scipy.fft.irfftn(spectrum * np.exp(options.bfactor / 4.0 * squared), (box,) * 3)
    rng = np.random.default_rng(options.seed)
    halves = [signal + options.noise * signal.std() * rng.normal(size=signal.shape) for _ in range(2)]
    for name, data in zip(("half1.mrc", "half2.mrc"), halves, strict=True):
        write_volume(folder / name, gonio.Volume(data, voxel))
    write_volume(folder / "mask.mrc", soft_mask(gonio.Volume(0.5 * (halves[0] + halves[1]), voxel)))


def run_relion(folder: Path, fit_range: tuple[float, float]) -> None:
    """Run relion_postprocess on the maps of a folder."""
    command = ["relion_postprocess", "--i", "half1.mrc", "--i2", "half2.mrc", "--mask", "mask.mrc", "--o", RELION]
    command += [
        "--force_mask",
        "--auto_bfac",
        "--autob_lowres",
        str(fit_range[0]),
        "--autob_highres",
        str(fit_range[1]),
    ]
    command += ["--angpix", f"{read_volume(folder / 'half1.mrc').voxel_size_angstrom:.6f}"]
    (folder / "relion").mkdir()
    with (folder / "relion.txt").open("w") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True)


def read_relion(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return RELION's curves by gonio's names, and its B-factor and resolution."""
    document = gemmi.cif.read(str(folder / f"{RELION}.star"))
    general, fsc = document.find_block("general"), document.find_block("fsc")
    curves = {name: np.array([float(x) for x in fsc.find_loop(f"_{label}")]) for name, label in CURVES.items()}
    found = {"bfactor": "rlnBfactorUsedForSharpening", "resolution_angstrom": "rlnFinalResolution"}
    return curves, {name: float(general.find_value(f"_{label}")) for name, label in found.items()}


def scatter_of_a_draw(folder: Path, first: int) -> np.ndarray:
    """Return the standard deviation over draws of the masked FSC with random phases from a shell on, (s,).

    Variances of six draws are averaged over five shells.
    """
    rng, within = np.random.default_rng(1), read_volume(folder / "mask.mrc").data
    halves = [read_volume(folder / f"half{i}.mrc") for i in (1, 2)]
    spectra = [scipy.fft.rfftn(half.data.astype(np.float64)) for half in halves]
    draws = []
    for _ in range(DRAWS):
        random = [with_random_phases(spectrum, first, rng) * within for spectrum in spectra]
        draws.append(fourier_shell_correlation(*(gonio.Volume(data, halves[0].voxel_size_angstrom) for data in random)))
    variance = np.pad(np.var(draws, axis=0, ddof=1), 2, mode="edge")
    return np.sqrt(np.convolve(variance, np.full(5, 0.2), mode="valid"))


def compare(folder: Path, found: jobs.Postprocessed) -> dict:
    """Return what differs between the two programs."""
    theirs, numbers = read_relion(folder)
    own, first = found.fsc, found.fsc.random_from
    differ = {}
    for name, curve in theirs.items():
        # RELION sets what random phases exceed to 0.
        ours = np.maximum(own.curves[name], 0.0) if name == "corrected" else own.curves[name]
        differ[name] = np.abs(ours - curve)
    sd = scatter_of_a_draw(folder, first)
    beyond = np.arange(len(sd)) >= first + RANDOM_MARGIN  # before, nothing is corrected
    within_draws = {
        name: float((differ[name][beyond] / np.maximum(sd[beyond], 1e-3)).max()) for name in ("randomised", "corrected")
    }
    limit = found.fsc.resolution_angstrom()
    ours, relions = (
        low_passed(one, resolution_angstrom=limit).data.ravel()
        for one in (found.sharpened, read_volume(folder / f"{RELION}.mrc"))
    )
    return {
        "largest_difference": {name: float(one[1:].max()) for name, one in differ.items()},
        "rms_difference": {name: float(np.sqrt((one[1:] ** 2).mean())) for name, one in differ.items()},
        "below_random": {name: float(one[1:first].max()) for name, one in differ.items()},
        "in_sd_of_a_draw": within_draws,
        "sd_of_a_draw": float(sd[beyond].max()),
        "shells": len(sd) - 1,
        "bfactor": {"gonio": found.bfactor, "relion": numbers["bfactor"]},
        "resolution_angstrom": {"gonio": own.resolution_angstrom(), "relion": numbers["resolution_angstrom"]},
        "correlation_of_sharpened": float(np.corrcoef(ours, relions)[0, 1]),
        "rms_ratio_of_sharpened": float(ours.std() / relions.std()),
        "rms_difference_of_sharpened": float((ours - relions).std() / relions.std()),
    }


def main() -> None:
    """Make half maps, run both programs, print how they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, default=STRUCTURES)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--voxel-size", type=float, default=2.0)
    parser.add_argument("--bfactor", type=float, default=-120.0)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--halves", type=Path, nargs=2)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/postprocess"))
    options = parser.parse_args()
    if not shutil.which("relion_postprocess"):
        sys.exit("relion_postprocess is not on the PATH: install RELION (Debian: apt-get install relion)")
    folder = options.out
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if options.halves:
        for path, name in zip((*options.halves, options.mask), ("half1.mrc", "half2.mrc", "mask.mrc"), strict=True):
            write_volume(folder / name, read_volume(path))
    else:
        write_halves(folder, options)
    halves = [folder / f"half{i}.mrc" for i in (1, 2)]
    found = jobs.postprocess(*halves, output=folder / "gonio", mask=folder / "mask.mrc", local_resolution=False)
    if found.fit is None:
        sys.exit("no B-factor can be fitted: take smaller voxels or less noise")
    run_relion(folder, (found.fit.coarsest_angstrom, found.fit.finest_angstrom))
    differences = compare(folder, found)
    (folder / "summary.json").write_text(json.dumps(differences, indent=1))
    print(json.dumps(differences, indent=1))


if __name__ == "__main__":
    main()
