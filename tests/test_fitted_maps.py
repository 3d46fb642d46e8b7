"""A reference or mask in other voxels or another box than the particles is resampled, and said to be."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gonio
from gonio import jobs
from gonio.jobs import ListOptions, RunOptions
from gonio.jobs.fitting import Fitting
from gonio.jobs.options import ReferenceOptions
from listed import BOX, VOXEL_SIZE_ANGSTROM, simulated

pytestmark = pytest.mark.slow

COUNT, ONE = 6, RunOptions(threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = simulated(tmp_path_factory.mktemp("fitted") / "sim", COUNT)
    reference = gonio.read_volume(folder / "reference.mrc")
    gonio.write_volume(folder / "fine.mrc", reference.resampled(VOXEL_SIZE_ANGSTROM / 2))
    gonio.write_volume(folder / "wide.mrc", reference.padded(BOX + 9))
    mask = gonio.Volume(gonio.soft_mask(reference).data, VOXEL_SIZE_ANGSTROM)
    gonio.write_volume(folder / "mask.mrc", mask)
    gonio.write_volume(folder / "fine_mask.mrc", mask.resampled(VOXEL_SIZE_ANGSTROM / 2))
    return folder


def test_a_map_comes_back_in_the_voxels_and_the_box_of_the_particles(folder):
    reference = gonio.read_volume(folder / "reference.mrc")
    fitting = Fitting.to_particles(gonio.read_particles(folder / "particles.star"))
    fine = fitting.fit(gonio.read_volume(folder / "fine.mrc"), "the reference")
    assert (fine.box, fine.voxel_size_angstrom) == (BOX, VOXEL_SIZE_ANGSTROM)
    # Exact but for the last frequency of the even box, which has no partner.
    assert np.abs(fine.data - reference.data).max() < 0.02 * np.abs(reference.data).max()
    np.testing.assert_array_equal(fitting.fit(gonio.read_volume(folder / "wide.mrc"), "wide").data, reference.data)
    assert fitting.fit(reference, "itself") is reference
    assert [one.what.split(" is now")[0] for one in fitting.warnings] == ["the reference", "wide"]
    with pytest.raises(ValueError, match="give --voxel-size where its header is wrong"):
        fitting.fit(gonio.Volume(reference.data, 0.5), "the reference", box=False)


def test_a_map_is_resampled_where_alignment_would_refuse_its_voxels(folder):
    reference = gonio.read_volume(folder / "reference.mrc")
    fitting = Fitting.to_particles(gonio.read_particles(folder / "particles.star"))
    rounded = gonio.Volume(reference.data, VOXEL_SIZE_ANGSTROM * 1.0009)
    assert fitting.fit(rounded, "rounded") is rounded
    fitting.fit(gonio.Volume(reference.data, VOXEL_SIZE_ANGSTROM * 1.005), "other", box=False)
    assert [one.what.split(" is now")[0] for one in fitting.warnings] == ["other"]


def test_alignment_is_the_same_with_finer_voxels_and_the_report_says_so(folder, tmp_path):
    particles = ListOptions(folder / "particles.star")
    same = jobs.align(particles, reference=folder / "reference.mrc", output=tmp_path / "a", run=ONE)
    known = ReferenceOptions(mask=folder / "fine_mask.mrc")
    with pytest.warns(UserWarning, match="is now 20 voxels of 16 angstrom, as the particles: it was 40 of 8") as told:
        fine = jobs.align(particles, reference=folder / "fine.mrc", output=tmp_path / "b", known=known, run=ONE)
    assert len(told) == 2  # the reference and the mask
    assert "it was 40 of 8" in (tmp_path / "b" / "report.html").read_text()
    assert np.median(fine.table.poses.rotation_distance_deg(same.table.poses)) < 3.0


def test_refinement_and_average_take_maps_of_other_voxels_and_boxes(folder, tmp_path):
    particles = ListOptions(folder / "truth.star")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refined = jobs.refine(
            particles,
            reference=folder / "wide.mrc",
            mask=folder / "fine_mask.mrc",
            output=tmp_path / "r",
            iterations=1,
            overlap_distance_angstrom=10.0,
            start_resolution_angstrom=80.0,
            run=ONE,
        )
    assert refined.best.volume.box == BOX
    page = (tmp_path / "r" / "report.html").read_text()
    assert f"it was {BOX + 9} of 16" in page and "it was 40 of 8" in page
    with pytest.warns(UserWarning, match="the mask is now 20 voxels of 16"):
        jobs.average(particles, output=tmp_path / "a.mrc", split=True, mask=folder / "fine_mask.mrc", threads=1)
