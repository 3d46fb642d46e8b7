"""From results to lists: the columns that an alignment adds for each particle, and the list of the runners-up.

Owns the names of gonio's own columns, which docs/conventions.md explains. Signs of poses in files are
``gonio.io.star``'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.alignment.result import Result, axis_sds
from gonio.comparison.score import Score
from gonio.io.formats import own_format
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.table import ParticleTable
from gonio.settings import LocalSearch, Settings

# Stands in files for infinite or unknown values: every program reads it, and as a float32 too.
UNKNOWN = 1e30

# Results of an alignment: those of an earlier one must not stay beside new poses.
FOUND = (
    "dissimilarity",
    "correlation",
    "score",
    "status",
    "overlap",
    "iterations",
    "rotation_sd_deg",
    "shift_sd_angstrom",
    "covariance",
    "runners_up",
    "dissimilarity_before",
    "change_of_orientation_deg",
    "change_of_shift_angstrom",
    "row",
    "rank",
    "margin",
    "log_likelihood",
    "decoy_log_likelihood",
    "q_value",
    "tilt_contrast",
)
BEST_RUNNER_UP = "runner_up_"  # prefix of all columns about it


def without_found(table: ParticleTable) -> ParticleTable:
    """Return the list without the columns of any alignment."""
    return table.without(*FOUND, *(name for name in table.columns if name.startswith(BEST_RUNNER_UP)))


def with_results(
    table: ParticleTable,
    results: Sequence[Result],
    settings: Settings,
    *,
    before: NDArray[np.float64] | None = None,
) -> ParticleTable:
    """Return a list with the poses found and all columns about them, as ``gonio align`` writes it.

    ``with_results(...).to_pandas()`` is a data frame.

    Parameters
    ----------
    table
        m particles, at their input poses.
    results
        One for each particle.
    settings
        Settings of the aligner that found them.
    before
        Dissimilarity of each at its input pose, (m,), nan where it is not known.
    """
    poses = Pose.stack([result.pose for result in results])
    columns = {**columns_of(table, results, settings.score), **_changes(table, poses, before, settings)}
    return without_found(table).with_poses(poses, **columns)


def _changes(
    table: ParticleTable, poses: Pose, before: NDArray[np.float64] | None, settings: Settings
) -> dict[str, NDArray[np.float64]]:
    """Return the columns that compare with the input poses; without changes of pose where all input poses are alike."""
    listed, columns = table.poses, {}
    if before is not None and np.isfinite(before).any():
        columns["dissimilarity_before"] = before
    if isinstance(settings.search, LocalSearch) or np.any(listed.rotation_distance_deg(listed[0]) > 1e-6):
        columns["change_of_orientation_deg"] = rotation_change_deg(settings, poses, listed)
        columns["change_of_shift_angstrom"] = np.asarray(poses.shift_distance_angstrom(listed))
    return columns


def rotation_change_deg(settings: Settings, first: Pose, second: Pose) -> NDArray[np.float64]:
    """Return the angle between two poses of each particle, (m,), the smallest over the symmetry of the settings."""
    return np.asarray(Symmetry.named(settings.symmetry).rotation_distance_deg(first, second))


def columns_of(table: ParticleTable, results: Sequence[Result], score: Score) -> dict[str, ArrayLike]:
    """Return the results of all particles as columns; values that are not known are infinite."""
    dissimilarity = np.array([result.dissimilarity for result in results])
    columns: dict[str, ArrayLike] = {
        "dissimilarity": dissimilarity,
        **_correlation_columns(dissimilarity, score),
        "score": as_score(dissimilarity, score),
        "status": [result.status.name.lower() for result in results],
        "overlap": [result.overlap for result in results],
        "iterations": [result.n_iterations for result in results],
        **uncertainty_columns(np.array([result.covariance for result in results])),
        "runners_up": [len(result.runners_up) for result in results],
    }
    return {**columns, **_best_runner_up(table, results)}


def uncertainty_columns(covariances: NDArray[np.float64]) -> dict[str, ArrayLike]:
    """Return the standard deviations of m poses about any one axis and along it, and their covariances (m, 6, 6)."""
    rotation_deg, shift_angstrom = axis_sds(covariances)
    return {
        "rotation_sd_deg": np.nan_to_num(rotation_deg, nan=np.inf, posinf=np.inf),
        "shift_sd_angstrom": np.nan_to_num(shift_angstrom, nan=np.inf, posinf=np.inf),
        "covariance": [_upper_triangle(one) for one in covariances],
    }


def as_score(dissimilarity: NDArray[np.float64], score: Score) -> NDArray[np.float64]:
    """Return scores as other programs have them, higher is better: the correlation of RCS, 1 - d / 2, else -d."""
    return 1.0 - 0.5 * dissimilarity if score is Score.RCS else -dissimilarity


def _correlation_columns(dissimilarity: NDArray[np.float64], score: Score) -> dict[str, NDArray[np.float64]]:
    """Return the correlation that a dissimilarity stands for, 1 - d / 2, as a column; none where it stands for none."""
    return {"correlation": 1.0 - 0.5 * dissimilarity} if score is Score.RCS else {}


def writable(table: ParticleTable) -> ParticleTable:
    """Return the list with ``UNKNOWN`` in place of numbers that not every program reads."""
    numbers = {name: column for name, column in table.columns.items() if np.asarray(column).dtype.kind == "f"}
    finite = {name: np.nan_to_num(c, nan=UNKNOWN, posinf=UNKNOWN, neginf=-UNKNOWN) for name, c in numbers.items()}
    return table.with_poses(table.poses, **finite)


def runners_up(table: ParticleTable, results: Sequence[Result]) -> ParticleTable | None:
    """Return a list with a row for every runner-up of every particle, the next best first; None where there is none."""
    found = [
        (row, rank, optimum)
        for row, result in enumerate(results)
        for rank, optimum in enumerate(result.runners_up, start=1)
    ]
    if not found:
        return None
    rows, ranks, optima = zip(*found, strict=True)
    return without_found(table)[list(rows)].with_poses(
        Pose.stack([optimum.pose for optimum in optima]),
        row=np.array(rows) + 1,
        rank=np.array(ranks),
        dissimilarity=[optimum.dissimilarity for optimum in optima],
        margin=[optimum.margin for optimum in optima],
    )


def _best_runner_up(table: ParticleTable, results: Sequence[Result]) -> dict[str, ArrayLike]:
    """Return the columns of the best runner-up; where a particle has none, its own pose and an infinite margin."""
    if not any(result.runners_up for result in results):
        return {}
    best = [result.runners_up[0] if result.runners_up else None for result in results]
    chosen = zip(best, results, strict=True)
    poses = Pose.stack([result.pose if optimum is None else optimum.pose for optimum, result in chosen])
    columns: dict[str, ArrayLike] = {
        "dissimilarity": [np.inf if optimum is None else optimum.dissimilarity for optimum in best],
        "margin": [np.inf if optimum is None else optimum.margin for optimum in best],
        **_relion_poses(table, poses),
    }
    return {BEST_RUNNER_UP + name: column for name, column in columns.items()}


def _relion_poses(table: ParticleTable, poses: Pose) -> Mapping[str, NDArray[np.float64]]:
    """Return poses as angles and origins of the list's own format: ``angle_rot`` for rlnAngleRot, and so on."""
    own = own_format(table)
    columns = {} if own is None else own.pose_columns(table.with_poses(poses))
    names = {label: re.sub(r"(?<!^)(?=[A-Z])", "_", label.removeprefix("rln")).lower() for label in columns}
    return {names[label]: np.array(values, dtype=np.float64) for label, values in columns.items()}


def _upper_triangle(covariance: NDArray[np.float64]) -> str:
    """Format the 21 numbers of the upper triangle, row by row, as one word in RELION's notation of vectors."""
    numbers = np.nan_to_num(covariance[np.triu_indices(6)], nan=UNKNOWN, posinf=UNKNOWN, neginf=-UNKNOWN)
    return "[" + ",".join(f"{number:.6g}" for number in numbers) + "]"
