"""Whether the search or the score is to blame for a wrong pose: the one count of search misses of all tables.

A miss is the search's where the true (or listed) pose, refined in the same comparison, fits better than the answer, and
was not among the runners-up: the search has then lost it on its way. What the answer lets expect of the pair weighs
the samples of both.
"""

from __future__ import annotations

from dataclasses import replace

import gonio

# Refinements that end at one optimum differ by less than this in their dissimilarity, and by less than this in angle.
SAME_DISSIMILARITY = 2e-4
SAME_DEG = 5.0
COLUMN = "search misses"


def search_missed(
    reference: gonio.Volume | gonio.Subtomogram,
    settings: gonio.Settings,
    target: gonio.Subtomogram | gonio.TiltStack,
    found: gonio.Result,
    truth: gonio.Pose,
) -> bool:
    """Whether the search has lost the right optimum of a target that it aligned to a reference by default settings."""
    near = local_optimum(gonio.Aligner(reference, local(settings)), target, found, truth)
    return fits_better(near, found)


def local(settings: gonio.Settings) -> gonio.Settings:
    """The same score and lengths, from a pose that is given."""
    return replace(settings, search=gonio.LocalSearch())


def local_optimum(
    aligner: gonio.Aligner, target: gonio.Subtomogram | gonio.TiltStack, found: gonio.Result, truth: gonio.Pose
) -> gonio.Result:
    """The optimum next to the true pose, samples weighted as in what was found."""
    return aligner.align(target, start=truth, expected_fsc=found.expected_fsc)


def fits_better(near: gonio.Result, found: gonio.Result) -> bool:
    """Whether an optimum is another one than the answer, better, and none of its runners-up."""
    if near.dissimilarity >= found.dissimilarity - SAME_DISSIMILARITY:
        return False
    listed = [found.pose, *(other.pose for other in found.runners_up)]
    return all(float(pose.rotation_distance_deg(near.pose)) > SAME_DEG for pose in listed)
