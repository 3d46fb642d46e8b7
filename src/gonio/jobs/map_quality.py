"""A map with what its halves say of it: sharpened, its resolution from place to place and by direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.jobs.curves import coverage_rows, coverage_summary, falls_at
from gonio.jobs.files import write_text
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gonio.averaging.directional import DirectionalFsc
    from gonio.averaging.local_resolution import LocalResolution
    from gonio.averaging.resolution import Evenness, HalfMapFsc
    from gonio.averaging.sharpening import BFactorFit, GuinierPlot
    from gonio.particle.volume import Volume
    from gonio.report import MapQuality

SHARPENED, FILTERED, LOCAL = "sharpened.mrc", "locally_filtered.mrc", "local_resolution.mrc"
GUINIER, DIRECTIONS = "guinier.csv", "directional_fsc.csv"
WRITTEN = (SHARPENED, FILTERED, LOCAL, GUINIER, DIRECTIONS)


@dataclass(frozen=True)
class SharpeningOptions:
    """How a map is sharpened.

    Parameters
    ----------
    bfactor
        B-factor in square angstrom, negative to sharpen, 0 for none; None for that of the Guinier plot.
    fit_range_angstrom
        The coarser and the finer resolution between which it is fitted; None for 10 angstrom to where the halves' FSC
        falls below 0.143.
    """

    bfactor: float | None = None
    fit_range_angstrom: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.bfactor is not None and not np.isfinite(self.bfactor):
            raise ArgumentError("{} must be a number, got {got!r}", "bfactor", got=self.bfactor)
        if self.fit_range_angstrom is not None:
            coarsest, finest = self.fit_range_angstrom
            if not 0 < finest < coarsest < np.inf:
                raise ArgumentError(
                    "{} is the coarser resolution and then the finer, got {coarsest:g} {finest:g}",
                    "fit_range_angstrom",
                    coarsest=coarsest,
                    finest=finest,
                )


@dataclass(frozen=True)
class Postprocessed:
    """A map with what its halves say of it.

    Attributes
    ----------
    volume, sharpened
        The map, and weighted by its figure of merit and sharpened.
    fsc, mask, made_mask
        Agreement of the halves, the mask within, and whether that was made for it.
    guinier, fit, bfactor, given_bfactor
        The Guinier plot, the line through it, or None where there is too little for one, the B-factor that was applied,
        and whether that was given.
    local, filtered
        Resolution from place to place, and the sharpened map filtered to it; None in boxes too small for them, or where
        not asked for.
    directional
        FSC by direction.
    coverage
        Weights of Fourier space, (n, n, n), zero frequency at n // 2; None where they are not known.
    """

    volume: Volume
    sharpened: Volume
    fsc: HalfMapFsc
    mask: Volume
    made_mask: bool
    guinier: GuinierPlot
    fit: BFactorFit | None
    bfactor: float
    given_bfactor: bool
    local: LocalResolution | None
    filtered: Volume | None
    directional: DirectionalFsc
    coverage: NDArray[np.float32] | None = None

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Numbers beside the resolution: name, value with unit, how to read it."""
        local = [] if self.local is None else [_local_row(self.local, self.mask)]
        coverage = [] if self._evenness is None else coverage_rows(self._evenness)
        return [self._bfactor_row, *local, *_direction_rows(self.directional), *coverage]

    @cached_property
    def _evenness(self) -> Evenness | None:
        from gonio.averaging.resolution import evenness

        return None if self.coverage is None else evenness(self.coverage)

    @property
    def _bfactor_row(self) -> tuple[str, str, str]:
        fit, applied = self.fit, self.bfactor
        if fit is None:
            why = "too few shells between 10 angstrom and the resolution: give one to sharpen"
            return "B-factor", f"{applied:.0f} A^2", "as given" if self.given_bfactor else why
        value = f"{fit.bfactor:.0f} +- {fit.sd:.0f} A^2"
        reading = f"fitted to {fit.shells} shells, {fit.coarsest_angstrom:.3g} to {fit.finest_angstrom:.3g} angstrom"
        if not self.given_bfactor and applied == fit.bfactor:
            return "B-factor", value, f"{reading}; applied"
        return "B-factor", value, f"{reading}; applied: {applied:.0f}"

    @property
    def summary(self) -> dict[str, object]:
        """Numbers for programs."""
        return {
            "fsc_falls_at_angstrom": falls_at(self.fsc),
            "random_phases_from_shell": self.fsc.random_from,
            "bfactor": self.bfactor,
            "bfactor_fit": None if self.fit is None else asdict(self.fit),
            "local_resolution_angstrom": None if self.local is None else list(self.local.quartiles(self.mask.data)),
            "anisotropy": self.directional.anisotropy,
            "anisotropy_by_chance": self.directional.chance,
            "worst_direction_xyz": self.directional.worst_xyz.tolist(),
        } | ({} if self._evenness is None else {"coverage": coverage_summary(self._evenness)})

    @property
    def quality(self) -> MapQuality:
        """What a page shows of it."""
        from gonio.averaging.sharpening import guinier_plot
        from gonio.report import Directions, LocalDetail, MapQuality, Sharpening

        plot, fit, by = self.guinier, self.fit, self.directional
        after = guinier_plot(self.sharpened, np.ones_like(self.fsc.best)).amplitude
        amplitudes = {"map": plot.amplitude, "times figure of merit": plot.weighted, "sharpened": after}
        line = None if fit is None else (fit.intercept, fit.bfactor, fit.coarsest_angstrom, fit.finest_angstrom)
        local = None if self.local is None else LocalDetail(self.local.as_volume(), self.mask)
        directions = Directions(by.direction_xyz, by.resolution_angstrom, by.fsc, by.box_angstrom)
        return MapQuality(Sharpening(plot.per_angstrom, amplitudes, line), local, directions)


def postprocessed(
    volume: Volume,
    halves: tuple[Volume, Volume],
    *,
    mask: Volume | None = None,
    fsc: HalfMapFsc | None = None,
    sharpening: SharpeningOptions = SharpeningOptions(),
    local_resolution: bool = True,
    random_from_angstrom: float | None = None,
    seed: int = 0,
) -> Postprocessed:
    """Compare half maps within a mask that is given or made from the map, and sharpen the map.

    Parameters
    ----------
    volume
        The map of all particles.
    fsc
        Agreement of the halves within the mask, where it is known.
    """
    from gonio.averaging import local_resolution as local
    from gonio.averaging.directional import directional_fsc
    from gonio.averaging.resolution import half_map_fsc
    from gonio.averaging.sharpening import guinier_plot, sharpened
    from gonio.fourier.masks import soft_mask

    within, rng = soft_mask(volume) if mask is None else mask, np.random.default_rng(seed)
    if fsc is None:
        fsc = half_map_fsc(halves, mask=within, rng=rng, random_from_angstrom=random_from_angstrom)
    plot = guinier_plot(volume, fsc.best)
    fit, bfactor = _bfactor_of(plot, fsc, sharpening)
    everywhere = local.local_resolution(halves) if local_resolution and local.has_bands(volume.box) else None
    filtered = None
    if everywhere is not None:  # which shells count from place to place, is up to this filter alone
        filtered = local.locally_filtered(sharpened(volume, np.ones_like(fsc.best), bfactor=bfactor), everywhere)
    return Postprocessed(
        volume,
        sharpened(volume, fsc.best, bfactor=bfactor),
        fsc,
        within,
        mask is None,
        plot,
        fit,
        bfactor,
        sharpening.bfactor is not None,
        everywhere,
        filtered,
        directional_fsc(halves, mask=within, fsc=fsc, rng=rng),
    )


def _bfactor_of(plot: GuinierPlot, fsc: HalfMapFsc, sharpening: SharpeningOptions) -> tuple[BFactorFit | None, float]:
    """Return the line through a Guinier plot, or None, and the B-factor to apply."""
    from gonio.averaging.sharpening import FIT_FROM_ANGSTROM, MIN_FIT_SHELLS, fit_bfactor

    asked = sharpening.fit_range_angstrom
    coarsest, finest = asked or (FIT_FROM_ANGSTROM, fsc.resolution_angstrom())
    fit = None if finest >= coarsest else fit_bfactor(plot, coarsest_angstrom=coarsest, finest_angstrom=finest)
    if fit is None and asked is not None:
        raise ArgumentError(
            "between {coarsest:g} and {finest:g} angstrom ({}) fewer than {least} shells have signal: give a wider"
            " range, or {}",
            "fit_range_angstrom",
            "bfactor",
            coarsest=coarsest,
            finest=finest,
            least=MIN_FIT_SHELLS,
        )
    if sharpening.bfactor is not None:
        return fit, sharpening.bfactor
    # A positive one would blur: the map's amplitudes do not fall off.
    return fit, 0.0 if fit is None else min(fit.bfactor, 0.0)


def _local_row(local: LocalResolution, mask: Volume) -> tuple[str, str, str]:
    """Return the quartiles of the resolution within a mask: name, value, how to read them."""
    fine, middle, coarse = (_local_text(one, local) for one in local.quartiles(mask.data))
    return "local resolution", middle, f"median in the mask; quartiles {fine} and {coarse}"


def _local_text(angstrom: float, local: LocalResolution) -> str:
    if not np.isfinite(angstrom):
        return f"over {local.coarsest_angstrom:.1f} angstrom"
    return f"{angstrom:.1f} angstrom" + (" or better" if angstrom <= 1.001 * local.finest_angstrom else "")


def _direction_rows(by: DirectionalFsc) -> list[tuple[str, str, str]]:
    resolutions = by.resolution_angstrom
    worst, best = ("nowhere" if np.isinf(x) else f"{x:.1f} A" for x in (resolutions.max(), resolutions.min()))
    along = ", ".join(f"{x:.2f}" for x in by.worst_xyz)
    verdict = "as of isotropic maps" if by.is_chance else "more than chance"
    return [
        ("anisotropy", f"{by.anisotropy:.2f}", f"{verdict} (up to {by.chance:.2f}): 0 for all directions alike"),
        ("directions, best and worst", f"{best}, {worst}", f"0.143 within cones; the worst about {along} xyz"),
    ]


def write_postprocessed(found: Postprocessed, place: Callable[[str], Path]) -> None:
    """Write the maps and curves that no average has itself to where ``place`` puts a file of a name."""
    from gonio.io import write_volume

    write_volume(place(SHARPENED), found.sharpened)
    for name in (LOCAL, FILTERED):  # those of an earlier run must not stay beside a new map
        place(name).unlink(missing_ok=True)
    if found.local is not None and found.filtered is not None:
        write_volume(place(LOCAL), found.local.as_volume())
        write_volume(place(FILTERED), found.filtered)
    by = found.directional
    rows = [*zip(*by.direction_xyz.T, by.resolution_angstrom, strict=True)]
    lines = [",".join(f"{value:.5g}" for value in row) for row in rows]
    write_text(place(DIRECTIONS), "\n".join(["x,y,z,resolution_angstrom", *lines, ""]))
    plot = found.guinier
    shells = zip(plot.per_angstrom, plot.amplitude, plot.weighted, strict=True)
    lines = [f"{s:.6f},{amplitude:.6g},{weighted:.6g}" for s, amplitude, weighted in shells]
    write_text(place(GUINIER), "\n".join(["per_angstrom,mean_amplitude,times_figure_of_merit", *lines, ""]))
