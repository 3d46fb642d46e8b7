"""Tilts and poses adjusted together: elimination against a dense solve, gauge, error bars, noise, held-out halves."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio.alignment.aligner import Aligner, Settings
from gonio.alignment.particle_list import Aligners
from gonio.comparison.tilt_images import DEFORMATION, TILT, turned_projections
from gonio.particle.tilt_change import TiltChange, full_projections
from gonio.preparation.weighted_images import tilt_axes
from gonio.run.packing import pack, unpack
from gonio.search.bundle_adjustment import BundleState, Gauge, _Equations, in_gauge
from gonio.workflows.tilt_refinement import (
    PARAMETERS,
    SHOWN,
    AdjustTomogram,
    TiltPlan,
    TomogramTilts,
    adjust_tilts,
    check_tilts,
    followed,
    limits_to,
)
from tilted import DEPTH, SIGMA, Series, volume_of

ACTIVE, DEFORMED = TiltPlan().active, TiltPlan(deformation=True)


def wrong_geometry(series, rng, size=1.0):
    """Shifts off by 4 angstrom, angles by 0.5 and 1 degree, defocus by 300; and these in the gauge of a result."""
    count, axes = len(series.series), tilt_axes(series.series)
    true = np.zeros((count, TILT))
    true[:, :2] = rng.normal(0.0, 4.0 * size, (count, 2))
    true[:, 2:5] = np.radians(rng.normal(size=(count, 3)) * size * [0.5, 0.0, 1.0])
    true[:, 5] = rng.normal(0.0, 300.0 * size, count)
    turns = np.degrees(np.einsum("tab,tb->ta", axes, true[:, 2:5]))
    gauge = Gauge.of(full_projections(series.series), axes, DEPTH, 1 / TiltPlan().priors.tilt_sd ** 2)
    return TiltChange(true[:, :2], turns, true[:, 5]), gauge.fixed(true, ACTIVE) * SHOWN


def task_of(series, images, rng=None, **more):
    poses = series.poses
    if rng is not None:
        poses = poses.retract(rng.normal(size=(series.count, 6)) * np.repeat([np.radians(1.5), 2.0], 3))
    aligner = Aligner(volume_of(series.atoms), Settings(resolution_angstrom=18.0, particle_diameter_angstrom=110.0))
    aligners = Aligners([aligner], np.zeros(series.count, np.int64))
    return AdjustTomogram(series.table(images, poses), aligners, **more)


@pytest.fixture(scope="module")
def adjusted():
    rng = np.random.default_rng(1)
    series = Series(count=12)
    change, true = wrong_geometry(series, rng)
    images = series.images(change, 3.0, rng)
    task = task_of(series, images, rng)
    return series, images, task, task(0), true


def test_eliminating_particles_is_the_dense_solution():
    rng = np.random.default_rng(0)
    tilts, a, particles = 4, 3, 5
    size = tilts * a + 7 * particles
    dense, descent = np.zeros((size, size)), rng.normal(size=size)
    tilt, mixed, poses = np.zeros((tilts, a, a)), np.zeros((particles, tilts, a, 7)), np.zeros((particles, 7, 7))
    for j in range(particles):
        seen = np.sort(rng.choice(tilts, 3, replace=False))
        rest = tilts * a + 7 * j + np.arange(7)
        for one in seen:
            jacobian = rng.normal(size=(20, a + 7))
            both = jacobian.T @ jacobian
            tilt[one] += both[:a, :a]
            mixed[j, one], poses[j] = both[:a, a:], poses[j] + both[a:, a:]
            dense[np.ix_(one * a + np.arange(a), rest)] += both[:a, a:]
            dense[np.ix_(rest, one * a + np.arange(a))] += both[a:, :a]
        dense[np.ix_(rest, rest)] += poses[j]
    for one in range(tilts):
        here = one * a + np.arange(a)
        tilt[one] += np.eye(a)
        dense[np.ix_(here, here)] = tilt[one]
    own = descent[: tilts * a].reshape(tilts, a), mixed, poses, descent[tilts * a :].reshape(particles, 7)
    equations = _Equations(0.0, tilt, *own)
    for damping in (0.0, 0.3):
        damped = dense + damping * np.diag(np.diag(dense))
        step = np.linalg.solve(damped, descent)
        moved, steps, schur, gain = equations.step(damping)
        assert np.allclose(np.concatenate([moved.ravel(), steps.ravel()]), step)
        assert gain == pytest.approx(descent @ step - 0.5 * step @ dense @ step)
        assert np.allclose(np.linalg.inv(schur), np.linalg.inv(damped)[: tilts * a, : tilts * a])


def mirroring(series, handed):
    """The series with beams such that its projections have this determinant: RELION 4 and IMOD have both."""
    return replace(series, beams_xyz=handed * full_projections(series)[:, 2])


@pytest.mark.parametrize("handed", [1.0, -1.0])
def test_more_about_the_tilt_axis_is_a_larger_tilt_angle(handed):
    series = mirroring(Series().series, handed)
    turns = np.zeros((11, 3))
    turns[:, 0] = np.radians(1.5)
    after = turned_projections(full_projections(series), tilt_axes(series), turns)
    found = replace(series, projections_xyz=after[:, :2], beams_xyz=after[:, 2])
    assert np.allclose(found.tilts_deg, series.tilts_deg + 1.5)


@pytest.mark.parametrize("handed", [1.0, -1.0])
def test_the_gauge_changes_no_image(handed):
    series, rng = Series(count=3), np.random.default_rng(2)
    mirror = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [1.0, 1.0, -1.0]])  # a list of two senses
    shown = mirroring(series.series, handed)
    projections, axes, count = full_projections(shown), tilt_axes(shown), len(shown)
    gauge = Gauge.of(projections, axes, DEPTH, 1 / TiltPlan().priors.tilt_sd ** 2)
    along = rng.normal(size=6) * [3.0, 3.0, 3.0, 1e-4, 1e-4, 1e-4]
    tilts = (gauge.directions @ along) + rng.normal(size=(count, TILT)) * [1, 1, 1e-5, 1e-5, 1e-5, 50, *7 * [0]]
    state = BundleState(tilts, series.poses, np.ones(3))
    after = in_gauge(state, gauge, ACTIVE, places_angstrom=series.places, sense=mirror)
    assert np.allclose(gauge.components(after.tilts, ACTIVE), 0.0, atol=1e-12)

    def images(one):
        a = np.stack([turned_projections(projections * of, axes, one.tilts[:, 2:5]) for of in mirror], axis=1)
        shown = (a @ (series.places * mirror + one.poses.shift_angstrom)[:, :, None])[..., 0]  # (t, m, 3)
        place = shown[..., :2] + one.tilts[:, None, :2]
        return a @ one.poses.matrix, place, one.tilts[:, None, 5] + DEPTH * shown[..., 2]

    for before, now, tolerance in zip(images(state), images(after), (1e-6, 1e-3, 1e-3), strict=True):
        assert np.abs(before - now).max() < tolerance  # second order in rotations of 1e-4
    assert np.abs(after.tilts - state.tilts).max() > 1.0


def test_a_deformation_of_the_specimen_moves_no_particle_in_any_image():
    series, rng = Series(count=3), np.random.default_rng(2)
    mirror = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [1.0, 1.0, -1.0]])
    projections, axes = series.projections, tilt_axes(series.series)
    precision, active = 1 / DEFORMED.priors.tilt_sd**2, DEFORMED.active
    gauge = Gauge.of(projections, axes, DEPTH, precision, deformation=True)
    tilts = gauge.directions @ np.concatenate([np.zeros(6), rng.normal(0.0, 4.0, 6)])
    state = BundleState(tilts, series.poses, np.ones(3))
    where = {"places_angstrom": series.places, "sense": mirror, "half_field_angstrom": 500.0}
    after = in_gauge(state, gauge, active, **where)
    assert np.abs(state.tilts).max() > 4.0 and np.abs(after.tilts).max() < 1e-9

    def shown(one):
        place = series.places + mirror * one.poses.shift_angstrom
        deformed = one.tilts[:, DEFORMATION].reshape(-1, 2, 2) @ series.places[:, :2].T / 500.0
        return projections[:, :2] @ place.T + deformed

    assert np.abs(shown(state) - shown(after)).max() < 1e-9


def deformed_field(series, rng, size):
    """A deformation by so many angstrom (sd) at the edge of the field, beside wrong shifts; and it in the gauge."""
    count, half_field = len(series.series), float(np.abs(series.places[:, :2]).max())
    true = np.zeros((count, TILT))
    true[:, :2], true[:, DEFORMATION] = rng.normal(0.0, 3.0, (count, 2)), rng.normal(0.0, size, (count, 4))
    deformation = true[:, DEFORMATION].reshape(-1, 2, 2) / half_field
    change = TiltChange(true[:, :2], np.zeros((count, 3)), np.zeros(count), deformation=deformation)
    precision = 1 / DEFORMED.priors.tilt_sd**2
    gauge = Gauge.of(series.projections, tilt_axes(series.series), DEPTH, precision, deformation=True)
    return change, gauge.fixed(true, DEFORMED.active)


def test_a_deformed_field_is_found():
    rng = np.random.default_rng(1)
    series = Series(count=24)
    change, true = deformed_field(series, rng, 5.0)
    task = task_of(series, series.images(change, 2.0, rng), rng)
    found, without = replace(task, plan=DEFORMED)(0), task(0)
    error, sd, known = (one[:, DEFORMATION] for one in (found.tilts - true, found.sd, found.determined))
    assert found.converged and known.all()
    # A mean square of 44 values: one, with a standard deviation of 0.21.
    assert 0.5 < ((error / sd) ** 2).mean() < 1.7
    assert np.sqrt((error**2).mean()) < 0.15 * np.sqrt((true[:, DEFORMATION] ** 2).mean())
    assert not without.tilts[:, DEFORMATION].any() and without.change.deformation is None
    # What a rigid geometry leaves of where particles are shown.
    after = [
        series.series if one is None else one.applied(series.series) for one in (change, found.change, without.change)
    ]
    poses = series.poses.shift_angstrom, found.shifts_angstrom, without.shifts_angstrom
    shown = [
        one.projections_xyz @ (series.places + shift).T
        + one.shift_since_cut_angstrom[:, :, None]
        + (0.0 if one.deformation_since_cut is None else one.deformation_since_cut @ series.places[:, :2].T)
        for one, shift in zip(after, poses, strict=True)
    ]
    left, rigid = (np.sqrt(((one - shown[0]) ** 2).mean()) for one in shown[1:])
    assert left < 0.5 * rigid and rigid > 1.0


def test_a_field_that_is_not_deformed_stays():
    rng = np.random.default_rng(4)
    series = Series(count=8)
    change, _ = deformed_field(series, rng, 0.0)
    found = replace(task_of(series, series.images(change, 4.0, rng), rng), plan=DEFORMED)(0)
    deformation, sd = found.tilts[:, DEFORMATION], found.sd[:, DEFORMATION]
    assert np.sqrt((deformation**2).mean()) < 1.0 and (np.abs(deformation) < 3.5 * sd).all()


def test_errors_are_as_large_as_predicted(adjusted):
    _, _, _, found, true = adjusted
    assert found.converged
    of_sd = ((found.tilts - true) / found.sd)[:, ACTIVE]
    # Mean squares of 66 values: one, with a standard deviation of 0.17.
    assert 0.5 < (of_sd**2).mean() < 1.7
    before = np.sqrt((true**2).mean(axis=0))
    after = np.sqrt(((found.tilts - true) ** 2).mean(axis=0))
    assert (after[:2] < 0.25 * before[:2]).all() and after[4] < 0.1 * before[4]


def test_tilts_do_not_depend_on_how_a_map_is_filtered():
    rng = np.random.default_rng(1)
    series = Series(count=12)
    change, _ = wrong_geometry(series, rng)
    task = task_of(series, series.images(change, 3.0, rng), rng)
    axis = np.fft.fftfreq(32, 6.0)
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    whole = volume_of(series.atoms)
    damped = replace(whole, data=np.fft.ifftn(np.fft.fftn(whole.data) * 3.0 * np.exp(-1000.0 * square)).real)
    aligner = Aligner(damped, task.aligners.settings)
    one, other = task(0), replace(task, aligners=replace(task.aligners, aligners=[aligner]))(0)
    # By 22 at the finest shell. Amplitudes are those of whole shells, and have a prior: the estimates differ a little.
    # At 18 angstrom they do not determine defocus, nor how far it is off.
    assert (np.abs(one.tilts - other.tilts)[:, :5] < 0.4 * one.sd[:, :5]).all()
    assert other.contrasts.mean() == pytest.approx(1.0, abs=0.1)


def test_limits_double_up_to_the_finest():
    assert limits_to(29.0) == [5.0, 7.25, 14.5, 29.0] and limits_to(4.0) == [4.0] and limits_to(10.0) == [5.0, 10.0]


def test_errors_of_premultiplied_images_are_as_large_as_predicted():
    rng = np.random.default_rng(1)
    series = Series(count=12, underfocus=(48000.0, 52000.0), premultiplied=True)
    change, true = wrong_geometry(series, rng)
    found = task_of(series, series.images(change, 3.0, rng), rng)(0)
    assert 0.5 < (((found.tilts - true) / found.sd)[:, ACTIVE] ** 2).mean() < 1.7


def test_the_farthest_particle_is_where_its_images_show_it(adjusted):
    series, _, _, found, _ = adjusted
    after = found.change.applied(series.series)
    shown = after.projections_xyz @ (series.places + found.shifts_angstrom).T  # (t, 2, m)
    shown += found.change.shift_angstrom[:, :, None] - series.projections[:, :2] @ series.places.T
    assert found.farthest_angstrom == pytest.approx(np.linalg.norm(shown, axis=1).max(), abs=0.05)  # gauge: first order
    assert found.farthest_angstrom < 0.25 * 32 * 6.0


def test_what_is_not_determined_is_named_and_stays(adjusted):
    _, _, _, found, _ = adjusted
    names = [name for name, _ in PARAMETERS]
    lens = names.index("defocus")
    assert found.determined[:, :5].all() and not found.determined[:, lens].any()  # at 18 angstrom
    assert np.abs(found.tilts[:, lens]).max() < 3.0 * found.prior_sd[0, lens]
    assert not found.determined[:, 6:].any() and not found.tilts[:, 6:].any()


def test_samples_that_are_read_again_give_the_same_bits(adjusted):
    _, _, task, found, _ = adjusted
    again = replace(task, kept_bytes=0)(0)
    assert np.array_equal(found.tilts, again.tilts) and np.array_equal(found.shifts_angstrom, again.shifts_angstrom)


def test_tilts_of_one_half_suit_the_other():
    rng = np.random.default_rng(1)
    series = Series(count=24)
    change, true = wrong_geometry(series, rng)
    task = task_of(series, series.images(change, 3.0, rng), rng)
    rows = (np.arange(0, 24, 2), np.arange(1, 24, 2))
    one, other = (
        replace(task, table=task.table[of], aligners=replace(task.aligners, which=task.aligners.which[of]))(0)
        for of in rows
    )
    # Tilts found from other particles differ by the errors of both, and are nearer than those of the list.
    apart = ((one.tilts - other.tilts) / np.hypot(one.sd, other.sd))[:, ACTIVE]
    assert 0.4 < (apart**2).mean() < 1.6
    rms, listed = (np.sqrt((tilts**2).mean(axis=0))[[0, 1, 4]] for tilts in (one.tilts - other.tilts, true))
    assert (rms < 0.5 * listed).all()


def test_noise_moves_nothing_and_the_true_geometry_stays():
    rng = np.random.default_rng(3)
    series = Series(count=4)
    none = TiltChange.none(len(series.series))
    (noise,) = adjust_tilts(task_of(series, series.images(none, 3.0, rng, empty=True), rng))
    assert not noise.tilts.any() and not noise.determined.any() and not noise.contrasts.any()
    (right,) = adjust_tilts(task_of(series, series.images(none, 3.0, rng), rng))
    assert (np.abs(right.tilts) <= 3.5 * right.sd + 1e-12).all()


def test_the_true_geometry_stays_however_few_particles_there_are():
    # Priors of 10 angstrom and 1 degree let noise move these images by 1.1 angstrom and 0.4 degrees.
    rng = np.random.default_rng(3)
    series = Series(count=4)
    images = series.images(TiltChange.none(len(series.series)), 5.0, rng)
    found = task_of(series, images)(0)
    rms = np.sqrt((found.tilts**2).mean(axis=0))
    assert (rms[:2] < 0.3).all() and (rms[2:5] < 0.15).all()
    assert (found.sd <= 1.001 * found.prior_sd).all() and (found.prior_sd[:, :2] < 1.0).all()


def test_input_poses_follow_what_images_show_of_places():
    series = Series(np.linspace(-60, 60, 13), count=4)
    # Tilt angles that are too small by 2 % show everything too near to the tilt axis, and too high or low.
    axes, turns = tilt_axes(series.series), np.radians(0.02 * series.series.tilts_deg)
    change = TiltChange(np.zeros((13, 2)), np.degrees(axes[:, :, 0] * turns[:, None]), np.zeros(13))
    table = series.table(np.ones((4, 13, 32, 32)))
    after = table.with_changes({"one": change})
    moved = followed(table.poses, table, after)
    assert np.allclose(moved.matrix, table.poses.matrix)
    for row, place in enumerate(series.places):
        new = after.stack_geometry(row).series
        shift = moved.shift_angstrom[row] - table.poses.shift_angstrom[row]
        left = new.offsets_angstrom(place) + new.projections_xyz @ shift
        assert np.abs(new.projections_xyz.reshape(-1, 3).T @ left.ravel()).max() < 1e-9  # normal equations
        assert np.linalg.norm(left) < np.linalg.norm(new.offsets_angstrom(place))


def test_results_survive_a_checkpoint(adjusted):
    found = adjusted[3]
    again = unpack(pack(found, TomogramTilts), TomogramTilts)
    assert np.array_equal(again.tilts, found.tilts) and again.refined == found.refined and again.gain == found.gain


def test_lists_without_tilts_are_refused(adjusted):
    _, _, task, _, _ = adjusted
    with pytest.raises(ValueError, match="in no half set"):
        check_tilts(replace(task.table, half_sets=np.zeros(12, np.int8)))
    with pytest.raises(ValueError, match="this list has none"):
        check_tilts(replace(task.table, source=None))


def test_a_changed_stack_shows_the_particle_in_its_centre(adjusted):
    # Loaded with the change that made them, images differ from those of no change in noise alone.
    series = Series(np.array([-30.0, 0.0, 40.0]), count=1)
    rng = np.random.default_rng(4)
    change, _ = wrong_geometry(series, rng)
    moved = series.table(series.images(change, 0.0, rng)).with_changes({"one": change}).load(0)
    axis = np.fft.fftfreq(32, 6.0)
    frequency = np.stack(np.meshgrid(axis, axis, indexing="ij")[::-1], axis=-1).reshape(-1, 2)
    turned = Rotation.from_rotvec(np.array(change.rotation_deg), degrees=True).as_matrix() @ series.projections
    assert np.allclose(moved.projections_xyz, turned[:, :2])
    spectra = np.fft.fft2(np.fft.ifftshift(moved.images, axes=(-2, -1))).reshape(3, -1)
    pose = series.poses[0]
    for tilt in range(3):
        shown = np.array([turned[tilt] @ (pose.apply(atom[:3])) for atom in series.atoms])
        expected = (series.atoms[:, 3] * np.exp(-2j * np.pi * frequency @ shown[:, :2].T)).sum(axis=1)
        expected *= moved.transfer(frequency)[tilt] * np.exp(-2 * np.pi**2 * SIGMA**2 * (frequency**2).sum(axis=1))
        inside = (np.linalg.norm(frequency, axis=1) > 0) & (np.linalg.norm(frequency, axis=1) < 0.05)
        weights = np.abs(expected[inside])
        assert abs(np.angle((spectra[tilt][inside] * expected[inside].conj()).sum())) < 1e-3
        coherence = np.abs((spectra[tilt][inside] * expected[inside].conj()).sum())
        assert coherence > 0.99 * np.linalg.norm(spectra[tilt][inside]) * np.linalg.norm(weights)
