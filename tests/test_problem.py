"""Refinement in compiled code takes the very steps of the general one, whatever is minimised."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio import Settings, align
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume
from gonio.particle.wedge import SingleAxisWedge
from gonio.search import levenberg_marquardt as lm
from gonio.search.objective import (
    AxisPrior,
    Cone,
    PoseProblem,
    StartPrior,
    pack,
    poses_of,
    signature,
    with_moving_overlap,
)
from gonio.search.stochastic import refine_stochastically
from gonio.settings import PaperSearch, Schedule
from oracle import Blobs

VOXEL, N, LIMIT = 5.0, 24, 7.0
OBJECT = Blobs.random(7)
TRUE = Pose(Rotation.from_euler("ZYZ", [40.0, 70.0, -25.0], degrees=True), np.array([6.0, -4.0, 9.0]))
NORMAL = np.array([0.6, 0.0, 0.8])
ABOUT_NORMAL = np.zeros((6, 4))
ABOUT_NORMAL[:3, 0], ABOUT_NORMAL[3:, 1:] = NORMAL, np.eye(3)


def compared(score: str, rng: np.random.Generator) -> Comparison:
    """A noisy pair with a wedge on either side."""
    f = OBJECT.moved(TRUE.matrix, TRUE.shift_angstrom / VOXEL).volume(N)
    f = f + rng.normal(scale=0.5 * f.std(), size=f.shape)
    target = Spectrum.of(Subtomogram(Volume(f, VOXEL), SingleAxisWedge(-60, 45)), limit=LIMIT)
    reference = FourierVolume.of(Volume(OBJECT.volume(N), VOXEL), wedge=SingleAxisWedge(-50, 60), limit=LIMIT)
    shells = int(LIMIT) + 1
    expected_fsc = ExpectedFsc(
        np.linspace(0.9, 0.2, shells), target.shell_power(), target.shell_power(), np.full(shells, 0.1)
    )
    return Comparison(target, reference, score=Score(score), expected_fsc=expected_fsc)


def points_near(pose: Pose, rng: np.random.Generator, count: int = 12) -> np.ndarray:
    """Up to 25 degrees and 8 angstrom off."""
    turns = Rotation.from_rotvec(rng.uniform(-0.25, 0.25, (count, 3))) * pose.rotation
    return pack(turns.as_matrix(), pose.shift_angstrom + rng.uniform(-8.0, 8.0, (count, 3)))


PRIORS = {
    "no prior": None,
    "start": StartPrior(TRUE, np.array([30.0, 30.0, 30.0, 0.01, 0.02, 0.03])),
    "axis": AxisPrior(TRUE.matrix @ NORMAL, NORMAL, 0.1),
}


@pytest.mark.parametrize("directions", [np.eye(6), ABOUT_NORMAL], ids=["all", "about an axis"])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("score", list(Score))
def test_compiled_steps_are_those_of_the_general_refinement(score, prior, directions, rng):
    problem = PoseProblem(
        compared(score, rng),
        directions=directions,
        shift_centre_angstrom=np.array([1.0, 0.0, -1.0]),
        max_shift_angstrom=14.0,
        radius_angstrom=40.0,
        tolerance_angstrom=0.05,
        cone=Cone(TRUE.matrix, np.radians(22.0)),
        prior=PRIORS[prior],
        samples_per_independent=2.5,
    ).problem
    points = points_near(TRUE, rng)
    for steps in (1, 4, 60):
        compiled = lm.minimise(problem, points, max_iterations=steps)
        general = lm.minimise(replace(problem, advance=None), points, max_iterations=steps)
        # Rotations are turned by two formulas for one exponential, which agree to rounding; float32 samples amplify it.
        np.testing.assert_allclose(compiled.points, general.points, atol=2e-4 if steps < 60 else 2e-2)
        np.testing.assert_allclose(compiled.dissimilarity, general.dissimilarity, rtol=1e-4)
    assert np.isinf(compiled.dissimilarity).any() and np.isfinite(compiled.dissimilarity).sum() >= 5
    assert (compiled.iterations > 3).any()


def test_a_row_is_refined_as_if_it_were_alone(rng):
    problem = PoseProblem(
        compared("rcs", rng),
        directions=np.eye(6),
        shift_centre_angstrom=np.zeros(3),
        max_shift_angstrom=30.0,
        radius_angstrom=40.0,
        tolerance_angstrom=0.05,
    ).problem
    points = points_near(TRUE, rng)
    together = lm.minimise(problem, points, max_iterations=30)
    for row in range(0, len(points), 5):
        alone = lm.minimise(problem, points[row : row + 1], max_iterations=30)
        np.testing.assert_array_equal(alone.points[0], together.points[row])
        np.testing.assert_array_equal(alone.code[0], together.code[row])
    step_by_step = lm.start(problem, points)
    for _ in range(30):
        lm.step(problem, step_by_step, step_by_step.running)
    np.testing.assert_array_equal(step_by_step.points, together.points)


@pytest.mark.parametrize("window", [20, 400], ids=["settles", "runs out"])
def test_the_compiled_pool_is_the_general_one(window, rng):
    problem = PoseProblem(
        compared("fcs", rng),
        directions=np.eye(6),
        shift_centre_angstrom=np.zeros(3),
        max_shift_angstrom=30.0,
        radius_angstrom=40.0,
        tolerance_angstrom=0.05,
    ).problem
    points = points_near(TRUE, rng, count=25)
    schedule = Schedule(regression_window=window, max_iterations=60)
    compiled, general = (
        refine_stochastically(
            replace(problem, explore=explore),
            points,
            schedule=schedule,
            signature=partial(signature, voxel_size_angstrom=VOXEL),
            rng=np.random.default_rng(5),
            record=True,
        )
        for explore in (problem.explore, None)
    )
    np.testing.assert_array_equal(compiled.history, general.history)
    np.testing.assert_array_equal(compiled.best_points, general.best_points)
    np.testing.assert_array_equal(compiled.state.points, general.state.points)
    assert len(compiled.state) < len(points)  # some have met


def test_points_are_the_poses_they_were_made_of(rng):
    """All four choices of the largest part, half turns among them."""
    half = Rotation.from_rotvec(np.pi * np.eye(3))
    rotations = Rotation.concatenate([Rotation.random(200, rng=rng), half, Rotation.identity(1)])
    shifts = rng.normal(size=(len(rotations), 3))
    found = poses_of(pack(rotations.as_matrix(), shifts))
    assert (found.rotation * rotations.inv()).magnitude().max() < 1e-7
    np.testing.assert_array_equal(found.shift_angstrom, shifts)


@pytest.mark.parametrize("directions", [np.eye(6), ABOUT_NORMAL], ids=["all", "about an axis"])
def test_a_moving_overlap_has_the_gradient_of_what_is_minimised(directions, rng):
    """Values change with the samples that enter and leave; analytic gradients do not know of these."""
    comparison = compared("rcs", rng)
    problem = PoseProblem(
        comparison,
        directions=directions,
        shift_centre_angstrom=np.zeros(3),
        max_shift_angstrom=40.0,
        radius_angstrom=40.0,
        tolerance_angstrom=0.05,
    ).problem
    points, step, turns = points_near(TRUE, rng), np.radians(1.0), directions.shape[1] - 3
    moving = with_moving_overlap(problem, step_rad=step)
    value, hessian, descent = moving.model(points)
    held = problem.model(points)
    np.testing.assert_array_equal(value, held[0])
    np.testing.assert_array_equal(hessian, held[1])
    np.testing.assert_array_equal(descent[:, turns:], held[2][:, turns:])
    for turn in range(turns):
        tangent = step * directions[:3, turn]
        ends = [
            pack((Rotation.from_rotvec(sign * tangent) * poses_of(points).rotation).as_matrix(), points[:, 9:])
            for sign in (1, -1)
        ]
        ahead, behind = (comparison.values(end[:, :9].reshape(-1, 3, 3), end[:, 9:])[0] for end in ends)
        # Sums of float32 samples tell values to 1e-7 of some units, over 0.07 radians.
        np.testing.assert_allclose(-2.0 * descent[:, turn], (ahead - behind) / (2 * step), atol=1e-4)
    assert np.abs(descent - held[2]).max() > 0.02 * np.abs(held[2]).max()
    ended = lm.minimise(moving, points, max_iterations=60)
    assert np.nanmin(ended.dissimilarity) < value.min()


@pytest.mark.parametrize("search", ["stochastic", "independent"])
def test_the_papers_searches_take_either_overlap(search, rng):
    target = Subtomogram(
        Volume(OBJECT.moved(TRUE.matrix, TRUE.shift_angstrom / VOXEL).volume(N), VOXEL), SingleAxisWedge(-60, 45)
    )
    reference = Subtomogram(Volume(OBJECT.volume(N), VOXEL), SingleAxisWedge(-50, 60))
    found = [
        align(
            target,
            reference,
            settings=Settings(search=PaperSearch(search, 90, overlap=overlap), max_refinement_iterations=10),
            rng=np.random.default_rng(0),
        )
        for overlap in ("held", "moving")
    ]
    assert found[0].pose.rotation_distance_deg(found[1].pose) > 1e-6  # not the same steps
