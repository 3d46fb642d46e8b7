"""How far noise alone moves a ribosome: the signal of one put into the images of another, refined from its true pose.

    python experiments/ribosomes/noise.py [--data ../shared/data]

The signal is 7P6Z at a input pose, through each tilt's own transfer, as strong in each shell as in the data; the
images are those of another particle of the same tomogram, six others for each, or white noise of the same power.
Refinement is to 32 angstrom without a prior, with the images as they are and in the ways that might have helped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import gonio
from gonio.comparison.score import Comparison, Score
from gonio.fourier.spectrum import Spectrum, image_samples
from gonio.particle.volume import TiltStack, masked
from run import BOX, DIAMETER_ANGSTROM, RESOLUTION_ANGSTROM, VOXEL_SIZE_ANGSTROM, laid_on, read_ribosomes

PARTNERS = 6
LIMIT = BOX * VOXEL_SIZE_ANGSTROM / RESOLUTION_ANGSTROM


def signal(stack: TiltStack, pose: gonio.Pose, volume: gonio.FourierVolume, strength: np.ndarray) -> np.ndarray:
    """Images (t, n, n) of the reference at a pose, multiplied by the transfer twice, as premultiplied images are."""
    frequency, _, transfer = image_samples(stack, volume.limit)
    k = np.einsum("sa,tax->tsx", frequency, stack.projections_xyz).reshape(-1, 3)
    phase = np.exp(-2j * np.pi * k @ pose.shift_angstrom / (BOX * VOXEL_SIZE_ANGSTROM))
    g = (phase * volume.sample(k @ pose.matrix * (1 - 1e-6))).reshape(transfer.shape)
    return images_of(stack, frequency, strength[shells(frequency.T)] * transfer**2 * g)


def images_of(stack: TiltStack, frequency: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Images (t, n, n) of samples (t, s) in a Friedel half at image frequencies (s, 2); excluded tilts stay empty."""
    spectra = np.zeros((len(value), BOX, BOX), dtype=complex)
    c = BOX // 2
    spectra[:, frequency[:, 1] + c, frequency[:, 0] + c] = value
    spectra[:, c - frequency[:, 1], c - frequency[:, 0]] = value.conj()
    axes = (1, 2)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectra, axes)), axes).real
    return images * stack.used[:, None, None]


def shells(frequency: np.ndarray) -> np.ndarray:
    """Whole-numbered shell of frequencies (d, n)."""
    return np.rint(np.sqrt((frequency.astype(float) ** 2).sum(axis=0))).astype(int)


def by_shell(stacks: list, values: Callable[[TiltStack], np.ndarray]) -> np.ndarray:
    """Sums over all images of a value (t, s) of each sample, by shell."""
    total = np.zeros(BOX)
    for stack in stacks:
        frequency, *_ = image_samples(stack, LIMIT)
        total += np.bincount(shells(frequency.T), weights=values(stack).sum(axis=0), minlength=BOX)
    return total


def strength_by_shell(stacks: list, poses: gonio.Pose, volume: gonio.FourierVolume) -> np.ndarray:
    """By how much the reference's signal has to be multiplied, shell by shell, to be that of the data."""
    cross, power = np.zeros(BOX), np.zeros(BOX)
    for index, stack in enumerate(stacks):
        model = replace(stack, images=signal(stack, poses[index], volume, np.ones(BOX)))
        (frequency, f, _), (_, g, _) = image_samples(stack, LIMIT), image_samples(model, LIMIT)
        used = stack.used[:, None]
        cross += np.bincount(shells(frequency.T), weights=(used * (f * g.conj()).real).sum(axis=0), minlength=BOX)
        power += np.bincount(shells(frequency.T), weights=(used * np.abs(g) ** 2).sum(axis=0), minlength=BOX)
    return np.clip(cross / np.maximum(power, 1e-12), 0.0, None)


def white_noise(stack: TiltStack, power: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images of noise that is white within each shell before it is multiplied by the transfer, of a power by shell."""
    frequency, _, transfer = image_samples(stack, (BOX - 1) // 2)
    deviation = transfer * np.sqrt(power[np.minimum(shells(frequency.T), int(LIMIT))] / 2)
    value = deviation * (rng.standard_normal(transfer.shape) + 1j * rng.standard_normal(transfer.shape))
    return images_of(stack, frequency, value)


def errors(
    stacks: list, poses: gonio.Pose, aligner: gonio.Aligner, change: Callable[[Spectrum], Spectrum]
) -> np.ndarray:
    """Rotation error (degrees) and shift error (angstrom) of each stack, refined from its true pose, shape (m, 2)."""
    result = []
    volume = gonio.FourierVolume.of(aligner.reference.volume, limit=LIMIT)
    for index, stack in enumerate(stacks):
        spectrum = change(Spectrum.of(stack, limit=LIMIT))
        pose = aligner.refine(Comparison(spectrum, volume, score=Score.RCS), poses[index]).pose
        result.append((pose.rotation_distance_deg(poses[index]), pose.shift_distance_angstrom(poses[index])))
    return np.array(result)


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    table, stacks, mean, atoms = read_ribosomes(parser.parse_args().data)
    poses, reference = table.poses, laid_on(mean, atoms)
    settings = gonio.Settings(
        search="local", resolution_angstrom=RESOLUTION_ANGSTROM, particle_diameter_angstrom=DIAMETER_ANGSTROM
    )
    aligner = gonio.Aligner(reference, settings)
    volume = gonio.FourierVolume.of(reference, limit=LIMIT)
    strength = strength_by_shell(stacks, poses, volume)
    signals = [signal(stack, poses[i], volume, strength) for i, stack in enumerate(stacks)]
    half = len(stacks) // 2
    rows = [np.r_[np.roll(np.arange(half), k), half + np.roll(np.arange(half), k)] for k in range(1, PARTNERS + 1)]
    real = [replace(s, images=stacks[row[i]].images + signals[i]) for row in rows for i, s in enumerate(stacks)]
    power = by_shell(stacks, lambda s: s.used[:, None] * np.abs(image_samples(s, LIMIT)[1]) ** 2)
    power /= np.maximum(by_shell(stacks, lambda s: s.used[:, None] * image_samples(s, LIMIT)[2] ** 2), 1e-12)
    rng = np.random.default_rng(0)
    white = [replace(s, images=white_noise(s, power, rng) + signals[i]) for _ in rows for i, s in enumerate(stacks)]
    truth = poses[np.tile(np.arange(len(stacks)), PARTNERS)]

    def whitened(spectrum: Spectrum) -> Spectrum:
        weight = spectrum.weight / np.maximum(power, 1e-12)[shells(spectrum.frequency_xyz)]
        return replace(spectrum, weight=(weight / weight.max()).astype(np.float32))

    def without_low_shells(spectrum: Spectrum) -> Spectrum:
        return replace(spectrum, weight=spectrum.weight * (shells(spectrum.frequency_xyz) > 3))

    def as_it_is(spectrum: Spectrum) -> Spectrum:
        return spectrum

    ways = {
        "white noise": (white, as_it_is),
        "images of another particle": (real, as_it_is),
        f"the same, masked to {DIAMETER_ANGSTROM:g} A": ([masked(s, DIAMETER_ANGSTROM) for s in real], as_it_is),
        "the same, noise whitened": (real, whitened),
        "the same, without the lowest three shells": (real, without_low_shells),
        "the same, dose decay ignored": ([replace(s, dose=None) for s in real], as_it_is),
        "the same, tilt scale ignored": ([replace(s, scale=None) for s in real], as_it_is),
    }
    for name, (chosen, change) in ways.items():
        turned, moved = np.median(errors(chosen, truth, aligner, change), axis=0)
        print(f"{name}: {turned:.1f} degrees, {moved:.1f} A (median of {len(chosen)})", flush=True)


if __name__ == "__main__":
    main()
