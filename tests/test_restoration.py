"""Restored particles are the mean of what their measurement leaves possible, nearer to the truth than masked ones."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gonio.fourier.grid import index_grid
from gonio.fourier.transform import centred_fft, centred_ifft, shell_limit
from gonio.kernels.dft import adjoint, filter_of, resampled
from gonio.kernels.restore import normal, shown, shown_back
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume, masked_volume, sphere_of
from gonio.particle.wedge import DualAxisWedge, NoWedge, SingleAxisWedge, TiltListWedge, WeightVolumeWedge
from gonio.preparation import restoration
from gonio.preparation.extent import extent_angstrom, sphere_diameter_angstrom
from gonio.preparation.restoration import MIN_NOISE, Restorer
from gonio.simulate import PHANTOM_NAMES, Imaging, Phantom, simulate_subtomogram
from oracle import Blobs, frequencies_xyz, paper_wedge, posterior_mean

VOXEL = 10.0
SIXTY = SingleAxisWedge(-60, 60)
SLOPE = np.tan(np.radians(60.0))
FLOAT = 1e-5  # float32 filters of unit gain, a few dozen after one another

boxes = pytest.mark.parametrize("n", [9, 10])


def restorer(n: int, *, wedge=SIXTY, limit: float | None = None, fraction: float = 0.6, mask=None) -> Restorer:
    """For a box of n voxels; the sphere's diameter is a share of the box."""
    limit = shell_limit(n, VOXEL, 4 * VOXEL) if limit is None else limit
    return Restorer.of(
        wedge, box=n, voxel_size_angstrom=VOXEL, diameter_angstrom=fraction * n * VOXEL, limit=limit, mask=mask
    )


def recorded(monkeypatch) -> dict:
    """What the next restorer takes prior and noise to be: the arguments of its model."""
    seen: dict = {}
    model = restoration.Model

    def recording(**arguments):
        seen.update(arguments)
        return model(**arguments)

    monkeypatch.setattr(restoration, "Model", recording)
    return seen


def everywhere(made: Restorer, values: np.ndarray) -> np.ndarray:
    """Values of a half spectrum that depend on the shell alone, at all frequencies; the largest at each radius."""
    square, place = np.unique(made.shells.square.ravel(), return_inverse=True)
    largest = np.zeros(len(square))
    np.maximum.at(largest, place, values.ravel())
    return np.interp(np.linalg.norm(frequencies_xyz(len(made.sphere)), axis=-1), np.sqrt(square), largest)


@boxes
@pytest.mark.parametrize("snr", [0.3, 3.0])
def test_restored_is_the_posterior_mean(n, snr, monkeypatch, rng):
    """With conjugate gradients that have converged, and the powers that the restorer finds."""
    rest = 1e-9
    monkeypatch.setattr(restoration, "ITERATIONS", 500)
    monkeypatch.setattr(restoration, "LEFT_OF_SCATTER", rest)
    seen = recorded(monkeypatch)
    blob = Blobs(np.ones(2), np.array([[0.8, 0.3, -0.5], [-1.0, -0.6, 0.7]]), np.stack([np.eye(3)] * 2) * 1.2)
    clean = blob.volume(n)
    data = clean / clean.std() * np.sqrt(snr) + rng.normal(size=clean.shape)
    made = restorer(n, limit=3.0)
    found = made.restore(Volume(data, VOXEL)).volume.data
    signal = everywhere(made, seen["root"] ** 2)
    noise = 1.0 / np.maximum(everywhere(made, seen["precision"].own), 1e-12)
    envelope = seen["envelope"]  # a sphere is the same in any order of the axes
    exact = posterior_mean(data, envelope=envelope, signal=signal, noise=noise, M=paper_wedge(60), limit=3.0)
    # It rests when the residual's square, measured by the inverse (at least one over 1 + MOST_EXCESS), is this share of
    # the number of samples that are known; the operator is at least 1, so that this bounds the error of v. Densities
    # are v times the root of the power. The right side is v times the operator, at most 1 + signal / noise of it.
    known = np.count_nonzero(seen["precision"].own)
    left = np.sqrt((1.0 + restoration.MOST_EXCESS) * rest * known * signal.max()) * data.std()
    ratio = signal.max() / noise[noise < 1e11].min()
    assert 0.1 < ratio < 200
    assert np.linalg.norm(found - exact) < left + FLOAT * (1 + ratio) * np.linalg.norm(exact)


def symmetric(weights: np.ndarray) -> np.ndarray:
    """The same at k and -k, as the transform of a real map."""
    return np.minimum(weights, weights[::-1, ::-1, ::-1])


WEDGES = {
    "none": NoWedge(),
    "even": SIXTY,
    "uneven": SingleAxisWedge(-65, 40),
    "oblique": SingleAxisWedge(-65, 40, 25.0),
    "dual": DualAxisWedge(SIXTY, SingleAxisWedge(-50, 60, 0.0)),
    "tilts": TiltListWedge(np.arange(-60, 61, 10), 60.0),
    "weights": WeightVolumeWedge(symmetric(np.random.default_rng(1).uniform(size=(13, 13, 13))) > 0.3, VOXEL),
}
wedges = pytest.mark.parametrize("wedge", WEDGES.values(), ids=WEDGES)


@boxes
@wedges
def test_optics_are_those_of_twice_the_box(n, wedge, rng):
    """Pad, transform, filter, transform back and cut, with complex FFTs."""
    made = restorer(n, wedge=wedge, limit=3.0)
    density = rng.normal(size=(n, n, n)).astype(np.float32)
    first = 2 * n // 2 - n // 2
    box = (slice(first, first + n),) * 3
    padded = np.zeros((2 * n,) * 3)
    padded[box] = density
    k = index_grid(2 * n)
    # Components at Nyquist stand for both signs.
    signed = [np.where(k == -n, k * np.array(signs), k) for signs in product((1, -1), repeat=3)]
    measured = np.mean([wedge.weight_at(k / (2 * n * VOXEL)) > 0 for k in signed], axis=0)
    seen = centred_ifft(centred_fft(padded) * measured).real[box]
    kept = np.abs(index_grid(n)).max(axis=-1) <= made.shells.square[-1, 0, 0] ** 0.5 / 3**0.5
    exact = centred_ifft(centred_fft(seen) * kept).real
    order = made.order
    samples = shown(made.imaging, np.ascontiguousarray(density.transpose(order)))
    found = adjoint(samples, made.imaging.dft_matrices).transpose(np.argsort(order))
    assert np.linalg.norm(found - exact) < FLOAT * np.linalg.norm(density)


@boxes
@wedges
def test_the_operator_is_its_own_adjoint(n, wedge, rng):
    made = restorer(n, wedge=wedge, limit=3.0)
    count = len(made.shells.square) // 2
    flat = filter_of(lambda k: np.ones(k.shape[:-1]), count=count, step=1.0)
    model = restoration.Model(made.imaging, np.sqrt(made.sphere), flat.own, flat)
    density = rng.normal(size=made.sphere.shape).astype(np.float32)
    u, v = rng.normal(size=(2, *flat.own.shape)).astype(np.float32)
    size = np.linalg.norm(u) * np.linalg.norm(v)
    seen = shown(made.imaging, density)
    assert abs((u * seen).sum() - (shown_back(made.imaging, u) * density).sum()) < FLOAT * size
    assert np.linalg.norm(seen) <= np.linalg.norm(density) * (1 + FLOAT)
    assert abs((u * normal(model, v)).sum() - (normal(model, u) * v).sum()) < FLOAT * size
    assert (v * normal(model, v)).sum() >= (v * v).sum() * (1 - FLOAT)


@pytest.mark.parametrize("sd", [0.1, 0.5, 1.0])
def test_what_is_left_when_the_steps_end_is_little(sd, monkeypatch, rng):
    data = imaged(Phantom.named("sharp", box=32, voxel_size_angstrom=VOXEL))[1]
    volume = Volume(data + sd * data.max() * rng.normal(size=data.shape), VOXEL)
    made = restorer(32, fraction=sphere_diameter_angstrom(volume) / (32 * VOXEL))
    ended = made.restore(volume).volume.data
    # The residual's square is measured by the preconditioner, which is right within a factor 1 + MOST_EXCESS.
    fraction = (1.0 + restoration.MOST_EXCESS) * restoration.LEFT_OVER
    monkeypatch.setattr(restoration, "ITERATIONS", 200)
    monkeypatch.setattr(restoration, "LEFT_OVER", 1e-8)
    exact = made.restore(volume).volume.data
    assert np.linalg.norm(ended - exact) < np.sqrt(fraction) * np.linalg.norm(exact)


def test_finer_voxels_below_the_limit_change_nothing(rng):
    """All that is looked at are the frequencies that both grids hold."""
    data = imaged(Phantom.named("sharp", box=32, voxel_size_angstrom=VOXEL))[1]
    coarse = Volume(data + data.std() * rng.normal(size=data.shape), VOXEL)
    fine = Volume(resampled(coarse.data, 63), VOXEL * 32 / 63)
    diameter = sphere_diameter_angstrom(coarse)
    assert sphere_diameter_angstrom(fine) == pytest.approx(diameter, rel=FLOAT)
    made = [
        Restorer.of(SIXTY, box=v.box, voxel_size_angstrom=v.voxel_size_angstrom, diameter_angstrom=diameter, limit=8.0)
        for v in (coarse, fine)
    ]
    one, other = (of.restore(v) for of, v in zip(made, (coarse, fine), strict=True))
    exact = resampled(one.volume.data, 63)
    assert np.linalg.norm(other.volume.data - exact) < 10 * FLOAT * np.linalg.norm(exact)
    np.testing.assert_allclose(other.signal_fraction, one.signal_fraction, atol=10 * FLOAT)


def test_another_sphere_is_that_of_a_new_restorer():
    one, other = restorer(32, fraction=0.5).within(0.7 * 32 * VOXEL), restorer(32, fraction=0.7)
    np.testing.assert_array_equal(one.sphere, other.sphere)
    assert one.samples_per_independent == other.samples_per_independent and one.imaging is not other.imaging


def imaged(phantom: Phantom, *, box: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """A density, and what a box shows of it when the wedge has filtered a much larger one."""
    wide = phantom.density(Pose.identity(), box=3 * box, voxel_size_angstrom=VOXEL)
    k = index_grid(3 * box)
    seen = centred_ifft(centred_fft(wide) * (np.abs(k[..., 2]) <= np.abs(k[..., 0]) * SLOPE + 1e-9)).real
    first = 3 * box // 2 - box // 2
    cut = (slice(first, first + box),) * 3
    return wide[cut], seen[cut]


@pytest.mark.parametrize("name", PHANTOM_NAMES)
@pytest.mark.parametrize("box", [31, 32])
def test_near_the_edge_of_the_wedge_it_is_nearer_to_the_truth_than_a_mask(name, box):
    truth, seen = imaged(Phantom.named(name, box=32, voxel_size_angstrom=VOXEL), box=box)
    volume = Volume(seen, VOXEL)
    diameter = sphere_diameter_angstrom(volume)
    made = restorer(box, fraction=diameter / (box * VOXEL))
    restored = made.restore(volume).volume.data
    k = index_grid(box)
    inside = (np.abs(k[..., 0]) * SLOPE - np.abs(k[..., 2])) * np.cos(np.radians(60.0))  # distance from the edge
    length = np.linalg.norm(k, axis=-1)
    edge = (inside >= 0) & (inside < 1.0) & (length <= made.limit) & (length > 0)
    exact = centred_fft(truth)[edge]
    errors = [
        (np.abs(centred_fft(v)[edge] - exact) ** 2).sum() for v in (restored, masked_volume(volume, diameter).data)
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_the_map_do_not_matter(factor, rng):
    data = imaged(Phantom.named("sharp", box=32, voxel_size_angstrom=VOXEL))[1]
    data = data + 0.3 * data.max() * rng.normal(size=data.shape)
    made = restorer(32)
    one, other = (made.restore(Volume(f * data, VOXEL)) for f in (1.0, factor))
    np.testing.assert_allclose(other.volume.data, factor * one.volume.data, atol=factor * FLOAT * data.max())
    np.testing.assert_allclose(other.signal_fraction, one.signal_fraction, atol=FLOAT)


@pytest.mark.parametrize("n", [15, 16, 31, 32])
@pytest.mark.parametrize("wedge", [NoWedge(), SIXTY], ids=["full", "wedge"])
def test_nothing_and_noise_alone_stay_finite(n, wedge, rng):
    made = restorer(n, wedge=wedge)
    for data in (np.zeros((n, n, n)), rng.normal(size=(n, n, n))):
        restored = made.restore(Volume(data, VOXEL))
        assert restored.volume.box == n and np.isfinite(restored.volume.data).all()
        assert ((restored.signal_fraction >= 0) & (restored.signal_fraction <= 1)).all()
        assert len(restored.signal_fraction) == round(made.limit) + 1
        np.testing.assert_array_equal(made.signal_fraction(Volume(data, VOXEL)), restored.signal_fraction)
        # Noise is not taken for a particle: what is left has a small part of its power.
        assert (restored.volume.data**2).mean() < 0.1 * max((data**2).mean(), 1e-12)


@pytest.mark.parametrize("n", [31, 32])
def test_where_everything_was_measured_without_noise_nothing_changes_within_the_limit(n):
    clean = Phantom.named("sharp", box=32, voxel_size_angstrom=VOXEL).density(
        Pose.identity(), box=n, voxel_size_angstrom=VOXEL
    )
    made = restorer(n, wedge=NoWedge(), fraction=0.75)
    restored = made.restore(Volume(clean, VOXEL)).volume.data
    length = np.linalg.norm(index_grid(n), axis=-1)
    kept = (length > 0) & (length <= made.limit)
    truth, found = (centred_fft(v)[kept] for v in (clean, restored))
    # Noise is taken to be at least MIN_NOISE of the signal; twelve steps of conjugate gradients leave about as much.
    assert (np.abs(found - truth) ** 2).sum() < 10 * MIN_NOISE * (np.abs(truth) ** 2).sum()


@pytest.mark.parametrize(
    "noise",
    [
        1.0,
        0.0,
    ],
)
def test_a_mask_is_where_the_density_may_be(noise, rng):
    n = 32
    half = np.zeros((n, n, n), dtype=np.float32)
    half[:, :, n // 2 :] = sphere_of(n, VOXEL, 0.6 * n * VOXEL)[:, :, n // 2 :]
    data = imaged(Phantom.named("sharp", box=32, voxel_size_angstrom=VOXEL))[1]
    data = data + noise * data.max() * rng.normal(size=data.shape)
    made = restorer(n, mask=Volume(half, VOXEL))
    assert made.samples_per_independent > restorer(n).samples_per_independent
    masked, sphere = (of.restore(Volume(data, VOXEL)).volume.data for of in (made, restorer(n)))
    # The mask is resampled to the working grid, which is rounded off within two of its voxels.
    beside, within = (np.s_[:, :, : n // 2 - 4], np.s_[:, :, n // 2 :])
    assert np.linalg.norm(masked[beside]) < 0.5 * np.linalg.norm(sphere[beside])
    assert np.linalg.norm(masked[within]) > 0.5 * np.linalg.norm(sphere[within])


def test_samples_per_independent_is_the_box_over_the_support():
    assert restorer(32, fraction=0.8).samples_per_independent > 1
    assert restorer(32, fraction=0.4).samples_per_independent == pytest.approx(
        8 * restorer(32, fraction=0.8).samples_per_independent, rel=0.05
    )


# The spheres of these phantoms that leave the smallest errors (restoration.EXTENT_FRACTION).
DIAMETERS = {"sharp": 210.0, "pseudo_symmetric": 210.0, "four_gaussians": 256.0}


@pytest.mark.parametrize("name", PHANTOM_NAMES)
@pytest.mark.parametrize("snr", [np.inf, 1.0, 0.1])
def test_the_extent_is_that_of_the_particle_whatever_its_noise(name, snr):
    phantom = Phantom.named(name, box=32, voxel_size_angstrom=VOXEL)
    imaging = Imaging(tilt_step_deg=4.0, snr=snr, ctf=None)
    volumes = [
        simulate_subtomogram(phantom, Pose.identity(), imaging=imaging, rng=np.random.default_rng(i)).volume
        for i in range(4)
    ]
    found = [sphere_diameter_angstrom(v) for v in volumes]
    assert np.median(found) == pytest.approx(DIAMETERS[name], rel=0.25)


@pytest.mark.parametrize("n", [31, 32])
def test_an_extent_never_leaves_the_box(n, rng):
    for data in (rng.normal(size=(n, n, n)), np.zeros((n, n, n)), np.ones((n, n, n))):
        volume = Volume(data, VOXEL)
        assert 0 < extent_angstrom(volume) <= 1.2 * (n // 2) * VOXEL
        assert 0.3 * n * VOXEL <= sphere_diameter_angstrom(volume) <= n * VOXEL
