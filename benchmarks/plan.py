"""How much is timed: a glance, what is usual, or all of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Counts of everything that is repeated.

    Parameters
    ----------
    pairs
        Pairs of particles behind each median.
    boxes, limits_angstrom
        Edges of the boxes, voxels; and limits of the resolution for the smallest of them.
    all_ways_in_all_boxes
        Whether the paper's searches and the scans are timed in every box, not in the smallest alone.
    global_targets, local_targets
        Targets that are aligned to one reference.
    set_size
        Particles of which all pairs are aligned.
    memory_targets
        Targets between which memory must not grow.
    kernel_boxes, poses
        Boxes whose samples the kernels go over, and poses in one call.
    scale_boxes, scale_particles
        Boxes in which the cost of a particle is weighed, and particles in each.
    scale_records, scale_tasks
        Results that one process collects and puts down; tasks that Dask is given.
    scale_rows
        Lengths of lists.
    rounds
        Turns where one call is long in itself, or very short.
    """

    pairs: int = 20
    boxes: tuple[int, ...] = (32, 48, 64, 96)
    limits_angstrom: tuple[float, ...] = (60.0, 40.0, 30.0, 20.0)
    all_ways_in_all_boxes: bool = False
    global_targets: tuple[int, ...] = (1, 100)
    local_targets: tuple[int, ...] = (1, 100, 1000)
    set_size: int = 80
    memory_targets: tuple[int, int] = (100, 10_000)
    kernel_boxes: tuple[int, ...] = (32, 64)
    poses: int = 500
    scale_boxes: tuple[int, ...] = (32, 64, 96)
    scale_particles: int = 24
    scale_records: int = 5000
    scale_tasks: int = 200
    scale_rows: tuple[int, ...] = (1000, 10_000, 100_000)
    rounds: int = 5


USUAL = Plan()
QUICK = Plan(
    pairs=2,
    boxes=(32,),
    limits_angstrom=(40.0,),
    global_targets=(2,),
    local_targets=(4,),
    set_size=3,
    memory_targets=(2, 10),
    kernel_boxes=(32,),
    poses=100,
    scale_boxes=(32,),
    scale_particles=3,
    scale_records=20,
    scale_tasks=1,
    scale_rows=(20, 200),
    rounds=1,
)
LONG = Plan(pairs=100, all_ways_in_all_boxes=True, global_targets=(1, 100, 1000))
