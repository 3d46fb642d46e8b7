"""Maps that are given with particles, in the voxels of the particles: resampled where theirs differ, and said to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.workflows.inspection import InputWarning

# Particles of which the first that can be read is the measure; one of other voxels is named when it is aligned.
LOOKED_AT = 3


class Fitting:
    """Voxel size and box that maps are to have, and a warning for each map that had others.

    Parameters
    ----------
    voxel_size_angstrom, box
        Those of the particles, or of the map that others belong to.
    """

    def __init__(self, voxel_size_angstrom: float, box: int) -> None:
        self.voxel_size_angstrom, self.box = voxel_size_angstrom, box
        self.warnings: list[InputWarning] = []

    @staticmethod
    def to_particles(table: ParticleTable) -> Fitting:
        """Return the fitting to the first particles of a list; an error where the first cannot be read."""
        from gonio.workflows.checks import sample_of

        particles = sample_of(table, LOOKED_AT) or [table.load(0)]
        return Fitting(particles[0].voxel_size_angstrom, particles[0].box)

    def fit(self, map_: Volume, name: str, *, box: bool = True) -> Volume:
        """Return a map in these voxels and this box; without ``box`` one of these voxels stays as it is."""
        from gonio.fourier.resampling import box_of_extent
        from gonio.particle.volume import MIN_BOX, VOXEL_SIZE_TOLERANCE, same_size
        from gonio.workflows.inspection import InputWarning

        size, own = self.voxel_size_angstrom, map_.voxel_size_angstrom
        same = same_size(own, size, tolerance=VOXEL_SIZE_TOLERANCE)
        if same:
            size = own  # which alignment takes for the same
        if same and (not box or map_.box == self.box):
            return map_
        if box_of_extent(map_, size) < MIN_BOX:
            raise ValueError(
                f"{name} is only {map_.box_angstrom:g} angstrom wide, and the particles' voxels {size:g}: give"
                " --voxel-size where its header is wrong"
            )
        made = map_.resampled(size, box=self.box)
        what = f"{name} is now {made.box} voxels of {size:g} angstrom, as the particles: it was {map_.box} of {own:g}"
        remedy = "give --voxel-size where its header is wrong" if not same else "gonio map makes others"
        self.warnings.append(InputWarning("resampled map", what, remedy))
        return made
