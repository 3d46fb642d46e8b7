"""What commands are told of a reference besides its map: where it has density, and its half maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gonio.alignment.aligner import Aligner, Settings
    from gonio.particle.volume import Subtomogram, Volume

__all__ = ["ReferenceFacts", "ReferenceOptions"]


@dataclass(frozen=True)
class ReferenceOptions:
    """What else is known of a reference: where it has density, and the half maps that it was made from."""

    mask_path: Path | None = None
    half_map_paths: tuple[Path, Path] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All that were given."""
        return tuple(path for path in (self.mask_path, *(self.half_map_paths or ())) if path is not None)

    def read(self, read_map: Callable[[Path], Volume], reference: Volume, settings: Settings) -> ReferenceFacts:
        """What the files say of a reference.

        Raises
        ------
        ValueError
            When it does not fit the reference, or plain inputs, which have no use for it.
        """
        from gonio.averaging.resolution import half_map_fsc
        from gonio.preparation.extent import sphere_mask

        if self.files and not settings.restores:
            raise ValueError("--mask and --half-maps are for restored inputs: plain ones are compared as they are")
        mask = None if self.mask_path is None else read_map(self.mask_path)
        halves = [] if self.half_map_paths is None else [read_map(path) for path in self.half_map_paths]
        for option, map_ in [("--mask", mask), *(("--half-maps", half) for half in halves)]:
            if map_ is not None and map_.box != reference.box:
                raise ValueError(f"{option} has a box of {map_.box} voxels, the reference one of {reference.box}")
        if not halves:
            return ReferenceFacts(mask)
        # Within what is compared of the reference: noise around the particle says nothing of it.
        window = mask or sphere_mask(reference, settings.mask_diameter_angstrom or settings.particle_diameter_angstrom)
        fsc = half_map_fsc((halves[0], halves[1]), mask=window, rng=np.random.default_rng(0))
        return ReferenceFacts(mask, fsc.best)


@dataclass(frozen=True)
class ReferenceFacts:
    """Where a reference has density, and the FSC of its half maps; None where it is not known."""

    mask: Volume | None = None
    fsc: NDArray[np.float64] | None = None

    def aligner(self, reference: Volume | Subtomogram, settings: Settings) -> Aligner:
        """An aligner that knows them."""
        from gonio.alignment.aligner import Aligner

        return Aligner(reference, settings, mask=self.mask, reference_fsc=self.fsc)
