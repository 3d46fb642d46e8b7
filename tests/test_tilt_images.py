"""One particle's images as functions of tilts and pose: values and derivatives against the literal model."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio.comparison.tilt_images import POSE, TILT, TiltImages
from gonio.fourier.fourier_volume import FourierVolume
from gonio.particle.tilt_change import TiltChange
from gonio.preparation.weighted_images import tilt_axes, tilt_images
from tilted import SIZE, Series, Truth, volume_of

LIMIT, HALF_FIELD = 11.0, 500.0
# Steps of the differences: angstrom, radians, angstrom of defocus, ln of a scale, angstrom at the edge of the field.
STEPS = np.array([0.05, 0.05, 2e-4, 2e-4, 2e-4, 20.0, 20.0, 20.0, 1e-3, *4 * [0.1]])
POSE_STEPS = np.array([1e-4, 1e-4, 1e-4, 0.02, 0.02, 0.02, 1e-3])


@pytest.fixture(scope="module")
def made():
    series = Series(np.array([-48.0, -20.0, 3.0, 35.0]), count=1)
    rng = np.random.default_rng(5)
    images = series.images(TiltChange.none(4), 0.7, rng)
    table = series.table(images)
    geometry = table.stack_geometry(0)
    particle = tilt_images(
        table.load(0), geometry, tilt_axes(geometry.series), diameter_angstrom=0.7 * 32 * SIZE, limit=LIMIT,
        half_field_angstrom=HALF_FIELD,
    )  # fmt: skip
    tilts = rng.normal(size=(4, TILT)) * [3, 3, 0.02, 0.03, 0.02, 300, 200, 200, 0.1, 5, 5, 5, 5]
    reference = FourierVolume.of(volume_of(series.atoms), limit=LIMIT)
    pose = series.poses[0].retract(rng.normal(size=6) * [0.05, 0.05, 0.05, 3, 3, 3])
    return series, particle, tilts, reference, pose, 0.83


def literal(series: Series, particle: TiltImages, tilts, tangent, pose, contrast):
    """Residuals of the literal model, weighted, (t, n) complex; the pose moved along a tangent, its contrast too."""
    moved = pose.retract(tangent[:6])
    axes = tilt_axes(series.series)
    turns = np.degrees(np.einsum("tab,tb->ta", axes, tilts[:, 2:5]))
    deformation = tilts[:, 9:].reshape(-1, 2, 2) / HALF_FIELD
    change = TiltChange(tilts[:, :2], turns, tilts[:, 5], tilts[:, 6:8], np.exp(tilts[:, 8]), deformation)
    truth = Truth.of(series.projections, series.defocus, change)
    frequency = particle.kernel.frequency[:2].T.astype(np.float64) / particle.box_angstrom
    place, residual = series.places[0], []
    for tilt, projection in enumerate(series.projections):
        cut = (projection @ place)[:2]
        shown = truth.spectrum(tilt, series.atoms, moved.matrix, moved.shift_angstrom, place, cut, frequency)
        value = particle.kernel.value[tilt, 0] + 1j * particle.kernel.value[tilt, 1]
        model = (contrast + tangent[6]) * shown
        residual.append(np.sqrt(particle.kernel.weight[tilt].astype(np.float64)) * (value - model))
    return np.array(residual)


def differences(series, particle, tilts, pose, contrast):
    """Derivatives of the residuals by each tilt's parameters (t, 9, n), and by the pose's (7, t, n)."""
    zero = np.zeros(POSE)

    def by(tilts_step, pose_step):
        after, before = (
            literal(series, particle, tilts + sign * tilts_step, sign * pose_step, pose, contrast) for sign in (1, -1)
        )
        return 0.5 * (after - before)

    by_tilt = np.array([by(STEPS[a] * np.eye(TILT)[a], zero) / STEPS[a] for a in range(TILT)])
    by_pose = np.array([by(np.zeros(TILT), POSE_STEPS[a] * np.eye(POSE)[a]) / POSE_STEPS[a] for a in range(POSE)])
    return by_tilt.transpose(1, 0, 2), by_pose


def test_blocks_are_those_of_the_literal_model(made):
    series, particle, tilts, reference, pose, contrast = made
    found = particle.blocks(reference, tilts, pose.matrix, pose.shift_angstrom, contrast)
    residual = literal(series, particle, tilts, np.zeros(POSE), pose, contrast)
    by_tilt, by_pose = differences(series, particle, tilts, pose, contrast)
    # Interpolation is wrong by 4.5e-4 of the rms value (docs/theory.md section 1), gradients by some times more.
    assert found.value == pytest.approx(float((np.abs(residual) ** 2).sum()), rel=1e-3)
    sd = 1 / np.sqrt(2 * (np.abs(by_tilt) ** 2).sum(axis=(0, 2)))
    hessian = 2 * np.einsum("tan,tbn->tab", by_tilt.conj(), by_tilt).real
    assert np.abs((found.tilt - hessian) * sd[:, None] * sd).max() < 5e-3
    mixed = 2 * np.einsum("tan,btn->tab", by_tilt.conj(), by_pose).real
    pose_sd = 1 / np.sqrt(2 * (np.abs(by_pose) ** 2).sum(axis=(1, 2)))
    assert np.abs((found.mixed - mixed) * sd[:, None] * pose_sd).max() < 5e-3
    assert (
        np.abs(
            (found.pose - 2 * np.einsum("atn,btn->ab", by_pose.conj(), by_pose).real) * np.outer(pose_sd, pose_sd)
        ).max()
        < 5e-3
    )
    slope = -2 * np.einsum("tan,tn->ta", by_tilt.conj(), residual).real
    noise = np.sqrt((np.abs(residual) ** 2).sum())
    assert np.abs((found.tilt_descent - slope) * sd).max() < 5e-3 * noise
    assert (
        np.abs((found.pose_descent + 2 * np.einsum("atn,tn->a", by_pose.conj(), residual).real) * pose_sd).max()
        < 5e-3 * noise
    )


def test_without_astigmatism_the_rest_is_the_same(made):
    _, particle, tilts, reference, pose, contrast = made
    at = reference, tilts, pose.matrix, pose.shift_angstrom, contrast
    every, fewer = particle.blocks(*at), particle.blocks(*at, astigmatism=False)
    kept = np.array([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12])
    scale = np.abs(every.tilt[:, kept][:, :, kept]).max(axis=0)
    assert (np.abs(fewer.tilt[:, kept][:, :, kept] - every.tilt[:, kept][:, :, kept]) <= 1e-5 * scale + 1e-12).all()
    assert not fewer.tilt[:, 6:8].any() and not fewer.tilt_descent[:, 6:8].any()


def test_the_remainder_of_a_first_order_step_falls_with_its_square(made):
    # Taylor: what the gradient does not explain falls with slope 2, along every direction at once.
    _, particle, tilts, reference, pose, contrast = made
    rng = np.random.default_rng(1)
    along, along_pose = rng.normal(size=tilts.shape) * STEPS * 20, rng.normal(size=POSE) * POSE_STEPS * 20
    here = particle.blocks(reference, tilts, pose.matrix, pose.shift_angstrom, contrast)
    slope = -(here.tilt_descent * along).sum() - here.pose_descent @ along_pose
    steps, remainders = 2.0 ** -np.arange(5), []
    for step in steps:
        moved = pose.retract(step * along_pose[:6])
        there = particle.blocks(
            reference, tilts + step * along, moved.matrix, moved.shift_angstrom, contrast + step * along_pose[6]
        )
        remainders.append(abs(there.value - here.value - step * slope))
    order = np.polyfit(np.log(steps), np.log(remainders), 1)[0]
    assert order == pytest.approx(2.0, abs=0.15)


def test_the_amplitude_of_each_shell_is_found(made):
    _, particle, tilts, reference, pose, _ = made
    at = reference, tilts, pose.matrix, pose.shift_angstrom
    amplitude = np.linspace(1.5, 0.2, 12)
    sums = particle.blocks(*at, 1.0)
    along, power = particle.along_model(*at)
    assert power.sum() == pytest.approx(sums.pose[6, 6], rel=1e-3)
    assert along.sum() == pytest.approx(sums.pose_descent[6] + sums.pose[6, 6], rel=1e-2)
    scaled = particle.scaled(amplitude).along_model(*at)
    assert np.allclose(scaled[0], amplitude * along) and np.allclose(scaled[1], amplitude**2 * power, rtol=1e-5)


@pytest.mark.parametrize("premultiplied", [False, True])
def test_noise_is_that_of_the_images_whether_they_were_multiplied_by_their_transfer_or_not(premultiplied):
    # What the samples say at all, sum w h^2: leakage into the zeros of premultiplied images must not count as noise.
    series = Series(np.linspace(-40, 40, 5), count=1, underfocus=(48000.0, 52000.0), premultiplied=premultiplied)
    table = series.table(series.images(TiltChange.none(5), 3.0, np.random.default_rng(0)))
    stack, geometry = table.load(0), table.stack_geometry(0)
    particle = tilt_images(stack, geometry, tilt_axes(geometry.series), diameter_angstrom=110.0, limit=11.0)
    pose, reference = series.poses[0], FourierVolume.of(volume_of(series.atoms), limit=11.0)
    tilts = np.zeros((5, TILT))
    particle = particle.weighted_by_residuals(reference, tilts, pose.matrix, pose.shift_angstrom)
    per_angstrom = particle.kernel.frequency[:2].T / particle.box_angstrom
    power = stack.transfer(per_angstrom) ** 2
    clean = replace(series, premultiplied=False).images(TiltChange.none(5), 0.0, np.random.default_rng(0))
    white = (3.0 * clean.std() * stack.box) ** 2  # power of a sample of white noise
    assert (particle.kernel.weight * power).sum() * white / power.sum() == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("premultiplied", [False, True])
def test_noise_is_as_large_as_weights_state_also_near_zeros_of_the_transfer(premultiplied):
    series = Series(np.linspace(-40, 40, 5), count=12, underfocus=(48000.0, 52000.0), premultiplied=premultiplied)
    table = series.table(series.images(TiltChange.none(5), 3.0, np.random.default_rng(0), empty=True))
    ratios = []
    for row in range(12):
        stack, geometry = table.load(row), table.stack_geometry(row)
        particle = tilt_images(stack, geometry, tilt_axes(geometry.series), diameter_angstrom=110.0, limit=11.0)
        transfer = np.abs(stack.transfer(particle.kernel.frequency[:2].T / particle.box_angstrom))
        power = (particle.kernel.value**2).sum(axis=1) * particle.kernel.weight * particle.samples_per_independent
        beyond = particle.radius > 3.0  # the circle takes the lowest
        near = [(transfer >= low) & (transfer < high) & beyond for low, high in ((0.03, 0.3), (0.3, 0.8), (0.8, 1.0))]
        ratios.append([power[one].mean() for one in near])
    # Some 600 independent samples; noise is overestimated by a tenth of that of the noisiest shell.
    assert (np.abs(np.mean(ratios, axis=0) - 0.9) < 0.2).all()


def test_offsets_are_where_the_particle_is_shown(made):
    series, particle, tilts, _, pose, _ = made
    turns = Rotation.from_rotvec(np.einsum("tab,tb->ta", tilt_axes(series.series), tilts[:, 2:5])).as_matrix()
    place = series.places[0]
    for tilt, offset in enumerate(particle.offset_angstrom(tilts, pose.shift_angstrom)):
        projection = series.projections[tilt]
        shown = turns[tilt] @ projection @ (place + pose.shift_angstrom)
        deformed = tilts[tilt, 9:].reshape(2, 2) @ place[:2] / HALF_FIELD
        assert np.allclose(offset, shown[:2] + tilts[tilt, :2] + deformed - (projection @ place)[:2])
