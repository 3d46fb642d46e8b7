"""Tilts and maps in turns: averages of the halves -> tilts and poses adjusted to them -> averages at the new geometry.

Each particle is compared with the map of its own half. Without given maps that is the average of its half without the
fifth of it that the particle is in (``averaging.averages.FOLDS``): with its own noise in the map it would stay where it
was. Tilts are common to both halves, as they are the microscope's; docs/tilts.md states what that leaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import Aligner
from gonio.alignment.columns import without_found
from gonio.alignment.particle_list import Aligners
from gonio.averaging.averages import Average, average_table, folds_of
from gonio.averaging.resolution import HalfMapFsc, agreed_shell, half_map_fsc
from gonio.fourier.transform import MIN_SHELLS
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume
from gonio.preparation.extent import sphere_mask
from gonio.run.executor import Executor, Local
from gonio.settings import Settings
from gonio.workflows.tilt_refinement import (
    AdjustTomogram,
    TiltPlan,
    TomogramTilts,
    adjust_tilts,
    changes_of,
    check_tilts,
    poses_of,
)


@dataclass(frozen=True)
class TiltIteration:
    """The tilts after an iteration, and the maps at that geometry; iteration 0 is the list as it was read.

    Attributes
    ----------
    number
        0, 1, ...
    limit_angstrom
        Finest detail that was compared; nan before the first adjustment.
    tilts
        The tilts of each tomogram, by name; empty before the first adjustment.
    table
        The particles: they load with the new geometry, and have their new poses.
    average, fsc, resolution_angstrom
        Their averages, the FSC of the halves under the mask, and where it ends.
    """

    number: int
    limit_angstrom: float
    tilts: Mapping[str, TomogramTilts]
    table: ParticleTable
    average: Average
    fsc: HalfMapFsc
    resolution_angstrom: float


def tilt_iterations(
    table: ParticleTable,
    plan: TiltPlan | None = None,
    *,
    settings: Settings | None = None,
    references: tuple[Volume, Volume] | None = None,
    mask: Volume | None = None,
    iterations: int = 1,
    executor: Executor | None = None,
    keep: Callable[[int, Mapping[str, TomogramTilts]], None] = lambda number, tilts: None,
    seed: int = 0,
) -> Iterator[TiltIteration]:
    """Average the list, then adjust tilts and average again, so many times; yield each when it is done.

    Parameters
    ----------
    table
        Tilt stacks with half sets, 1 or 2, and tilt series; poses are nearly right.
    settings
        Symmetry, diameter and, as ``resolution_angstrom``, the finest detail that is ever compared.
    references
        Maps of the halves to compare with in all iterations; None for averages of the particles themselves.
    mask
        Where the particle has density, of the maps' box; None for a soft sphere.
    keep
        Called with the number of an iteration and its tilts when they are found, before the averages.

    Raises
    ------
    ValueError
        As ``check_tilts``; maps that do not fit.
    """
    check_tilts(table)
    run = _Turns(table, plan or TiltPlan(), settings or Settings(), references, mask, executor or Local(), keep, seed)
    here = run.averaged(0, float("nan"), {}, table)
    yield here
    for number in range(1, iterations + 1):
        here = run.next(number, here)
        yield here


@dataclass(frozen=True)
class _Turns:
    """A run of iterations."""

    listed: ParticleTable
    plan: TiltPlan
    settings: Settings
    references: tuple[Volume, Volume] | None
    given_mask: Volume | None
    executor: Executor
    keep: Callable[[int, Mapping[str, TomogramTilts]], None]
    seed: int
    _masks: dict[str, Volume] = field(default_factory=dict)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        return folds_of(len(self.listed))

    def averaged(
        self, number: int, limit: float, tilts: Mapping[str, TomogramTilts], table: ParticleTable
    ) -> TiltIteration:
        made = average_table(
            table,
            executor=self.executor,
            half_sets=np.asarray(table.half_sets),
            folds=self.folds if self.references is None else None,
            symmetry=self.settings.symmetry,
            stage=f"averaging, iteration {number}",
        )
        assert made.halves is not None
        mask = self.mask(made.volume)
        fsc = half_map_fsc(made.halves, mask=mask, rng=np.random.default_rng(self.seed))
        shell = agreed_shell(fsc, mask)
        resolution = fsc.box_angstrom / shell if shell else float("inf")
        return TiltIteration(number, limit, tilts, table, made, fsc, resolution)

    def mask(self, volume: Volume) -> Volume:
        """Return the mask of all FSCs: the one given, or a sphere about the first average."""
        if self.given_mask is not None:
            return self.given_mask
        diameter = self.settings.mask_diameter_angstrom or self.settings.particle_diameter_angstrom
        return self._masks.setdefault("sphere", sphere_mask(volume, diameter))

    def next(self, number: int, before: TiltIteration) -> TiltIteration:
        limit, aligners = self.aligners(before)
        task = AdjustTomogram(self.listed, aligners, self.plan, changes_of(before.tilts), poses=before.table.poses)
        found = adjust_tilts(task, executor=self.executor, stage=f"tilts, iteration {number}")
        tilts = dict(zip(task.names, found, strict=True))
        self.keep(number, tilts)
        poses, contrasts = poses_of(task, found)
        table = without_found(self.listed).with_changes(changes_of(tilts)).with_poses(poses, tilt_contrast=contrasts)
        return self.averaged(number, limit, tilts, table)

    def aligners(self, before: TiltIteration) -> tuple[float, Aligners]:
        """Return the limit of the next comparison, angstrom, and the references of the particles.

        Maps are not filtered by what their halves agree on: amplitudes of shells are estimated in the particles.
        """
        halves = np.asarray(self.listed.half_sets)
        if self.references is not None:
            mask = self.mask(self.references[0])
            fsc = half_map_fsc(self.references, mask=mask, rng=np.random.default_rng(self.seed))
            maps, which = list(self.references), halves.astype(np.int64) - 1
        else:
            assert before.average.without is not None
            keys = sorted(before.average.without)
            place = {key: number for number, key in enumerate(keys)}
            which = np.array([place[int(half), int(fold)] for half, fold in zip(halves, self.folds, strict=True)])
            maps = [before.average.without[key] for key in keys]
            mask, fsc = self.mask(maps[0]), before.fsc
        finest, most = self.settings.resolution_angstrom or 0.0, (maps[0].box - 1) // 2
        limit = max(fsc.box_angstrom / float(np.clip(agreed_shell(fsc, mask), MIN_SHELLS, most)), finest)
        settings = replace(self.settings, resolution_angstrom=limit)
        return limit, Aligners([Aligner(one, settings, mask=self.given_mask) for one in maps], which)
