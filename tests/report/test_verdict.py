"""The verdict of a page: what is wrong or cannot be known is never good, on stored numbers and on real runs."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from gonio.report import Competing, Divided, Evidence, Grade, Report, Verdict, html, verdict_of

# Numbers of a good run, like those that experiments/verdicts/run.py stores.
GOOD = Evidence(
    units_in_half=80,
    contrast_t=24.0,
    map_contrast=60.0,
    shared_angstrom=60.0,
    resolution_angstrom=20.0,
    box_angstrom=256.0,
    apart=True,
    fsc=[1.0, 0.99, 0.98, 0.97, 0.9, 0.8, 0.5, 0.2, 0.1, 0.0],
    competing=Competing(16, 0, 2, 16),
    covered=0.6,
    unfinished="",
)


def grades(verdict: Verdict) -> dict[str, Grade]:
    return {one.name: one.grade for one in verdict.checks if one.grade is not Grade.GOOD}


def test_a_good_run_is_good_and_every_check_says_so():
    verdict = verdict_of(GOOD)
    assert verdict.grade is Grade.GOOD
    assert grades(verdict) == {}
    assert verdict.sentence.startswith("Good: particles are bright where the reference is")
    assert "agree to 20.0 angstrom, beyond the 60" in verdict.sentence


@pytest.mark.parametrize(
    ("change", "name", "grade"),
    [
        ({"contrast_t": -4.1}, "contrast", Grade.WRONG),
        ({"map_contrast": -5.0}, "density", Grade.DOUBTFUL),
        ({"resolution_angstrom": 59.0}, "halves", Grade.DOUBTFUL),
        ({"resolution_angstrom": 48.7}, "halves", Grade.DOUBTFUL),  # one shell beyond 60 of 256 is 48.6
        ({"resolution_angstrom": np.inf}, "halves", Grade.DOUBTFUL),
        ({"shared_angstrom": None, "resolution_angstrom": 100.0}, "halves", Grade.DOUBTFUL),
        ({"competing": None}, "particles", Grade.DOUBTFUL),
        ({"apart": None}, "halves", Grade.DOUBTFUL),
        ({"competing": Competing(30, 10, 2, 30)}, "particles", Grade.DOUBTFUL),
        ({"competing": Competing(10, 1, 2, 10)}, "particles", Grade.DOUBTFUL),  # 15 %, but perhaps 59
        ({"competing": Competing(30, 18, 2, 30)}, "particles", Grade.WRONG),
        ({"competing": Competing(2, 0, 2, 2)}, "particles", Grade.DOUBTFUL),  # of two no fraction is known
        ({"competing": Competing(30, 0, 2, 30, alike=True)}, "particles", Grade.DOUBTFUL),
        ({"competing": Competing(30, 0, 2, 17)}, "orientations", Grade.DOUBTFUL),
        ({"units_in_half": 24}, "number", Grade.DOUBTFUL),
        ({"fsc": [1.0, 0.9, 0.1, 0.0, 0.5, 0.6]}, "FSC", Grade.DOUBTFUL),
        ({"unfinished": "poses were still moving"}, "iterations", Grade.DOUBTFUL),
        ({"at_limit": 0.2}, "shifts", Grade.DOUBTFUL),
        ({"covered": 0.1}, "coverage", Grade.DOUBTFUL),
        ({"warnings": [("mask is a map", "the mask has no plateau", "give a mask")]}, "mask is a map", Grade.DOUBTFUL),
    ],
)
def test_each_check_can_fail_alone(change, name, grade):
    verdict = verdict_of(replace(GOOD, **change))
    assert grades(verdict) == {name: grade}
    assert verdict.grade is grade
    assert verdict.deciding[0].remedy
    assert verdict.deciding[0].found in verdict.sentence


DIVIDED = Divided([40, 26], likeness=0.55, clear=0.97, unfinished="")


def judged(divided: Divided, **more) -> Verdict:
    return verdict_of(Evidence(classes=divided, **more), needs_decoys=False)


def test_classes_that_differ_are_good_and_every_check_says_so():
    verdict = judged(DIVIDED, contrast_t=9.0)
    assert verdict.grade is Grade.GOOD
    assert {one.name for one in verdict.checks} == {"contrast", "difference", "size", "assignment", "iterations"}
    assert judged(Divided([25, 25], silhouette=0.6)).grade is Grade.GOOD  # all pairs: no halves are needed
    assert judged(Divided([50], silhouette=0.59)).grade is Grade.GOOD  # one kind, as no division stands out


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"units": [40, 24]}, "size"),
        ({"units": [40, 26, 0]}, "size"),
        ({"likeness": 0.81}, "difference"),
        ({"likeness": None}, "difference"),
        ({"silhouette": 0.59}, "silhouette"),
        ({"units": [66], "likeness": None, "silhouette": 0.61}, "silhouette"),
        ({"clear": 0.49}, "assignment"),
        ({"unfinished": "the last iteration was not the end"}, "iterations"),
    ],
)
def test_each_check_of_classes_can_fail_alone(change, name):
    verdict = judged(replace(DIVIDED, **change))
    assert grades(verdict) == {name: Grade.DOUBTFUL}
    assert verdict.deciding[0].remedy
    assert verdict.deciding[0].found in verdict.sentence


def test_classes_of_which_nothing_was_measured_are_doubtful():
    assert judged(Divided([40, 30])).grade is Grade.DOUBTFUL
    assert judged(DIVIDED, contrast_t=-9.0).grade is Grade.WRONG


def test_thresholds_lie_where_they_are_stated():
    """Just inside each of them the run is good."""
    inside = replace(
        GOOD,
        contrast_t=-3.9,
        resolution_angstrom=48.5,
        units_in_half=25,
        competing=Competing(30, 5, 2, 18),
        at_limit=0.1,
        covered=0.2,
    )
    assert verdict_of(inside).grade is Grade.GOOD


def test_nothing_measured_is_doubtful():
    assert verdict_of(Evidence()).grade is Grade.DOUBTFUL
    assert Verdict(()).grade is Grade.DOUBTFUL
    assert Verdict(()).sentence.startswith("Doubtful: nothing was measured")


def test_wrong_outweighs_doubtful_and_names_what_is_wrong():
    verdict = verdict_of(replace(GOOD, contrast_t=-9.0, units_in_half=3))
    assert verdict.grade is Grade.WRONG
    assert [one.name for one in verdict.deciding] == ["contrast"]
    assert verdict.sentence.startswith("Wrong: particles are dark where the reference is bright")


@pytest.mark.parametrize("false", [0.0, 0.2, 0.5, 1.0])
def test_the_interval_of_false_particles_holds_the_truth(false, rng):
    """Of K decoys K in K + 1 false particles lose to one: drawn so, 90 % of intervals hold the fraction."""
    lost = rng.binomial(30, false * 2.0 / 3.0, size=300)
    inside = [low - 1e-9 <= false <= high + 1e-9 for _, low, high in (Competing(30, int(n), 2).false for n in lost)]
    assert np.mean(inside) > 0.85


def test_page_begins_with_the_verdict_and_one_resolution():
    page = html(
        Report("x", {"a": "b"}, verdict=verdict_of(replace(GOOD, contrast_t=-9.0)), resolution=(20.04, "a rule"))
    )
    start = page[page.index("<section") :]
    assert (
        start.index("data-grade=wrong") < start.index("<strong>Resolution: 20.0 Å</strong>") < start.index("<h3>Checks")
    )
    assert start.index("dark where the reference") < start.index("a rule")
    assert "none" in html(Report("x", {}, resolution=(np.inf, "a rule")))


def test_a_resolution_at_the_last_shell_may_be_better():
    curve = {"halves": np.linspace(1.0, 0.3, 11)}
    for resolution, shown in ((20.0, "20.0 Å or better"), (25.0, "25.0 Å<")):
        assert shown in html(Report("x", {}, curves=curve, box_angstrom=200.0, resolution=(resolution, "a rule")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small real runs: as it should be, of noise alone, from an inverted map, and of six particles."""
    import gonio
    from gonio import jobs
    from gonio.io import write_simulated, write_volume
    from gonio.simulate import Imaging, Phantom, simulate_subtomogram

    folder, rng = tmp_path_factory.mktemp("verdicts"), np.random.default_rng(4)
    imaging = Imaging(24, 10.0, -60.0, 60.0, snr=0.5, ctf=None)
    phantom = Phantom.named("sharp", box=24, voxel_size_angstrom=10.0)
    truth = gonio.Pose.random(56, rng=rng, max_shift_angstrom=10.0)
    perfect = Imaging(24, 10.0, -90.0, 90.0, ctf=None)
    reference = simulate_subtomogram(phantom, gonio.Pose.identity(), imaging=perfect, rng=rng).volume
    write_volume(folder / "reference.mrc", reference)
    write_volume(folder / "inverted.mrc", replace(reference, data=-reference.data))
    kinds = {"real": [], "noise": []}
    for row in range(56):
        real = simulate_subtomogram(phantom, truth[row], imaging=imaging, rng=rng).volume
        noise = replace(real, data=rng.standard_normal(real.data.shape).astype(np.float32))
        for kind, volume in (("real", real), ("noise", noise)):
            kinds[kind].append(folder / f"{kind}_{row}.mrc")
            write_volume(kinds[kind][-1], volume)

    def run(kind: str, count: int, reference: str, iterations: int = 2):
        listed = folder / f"{kind}_{count}.star"
        write_simulated(
            listed,
            gonio.Pose.identity(count),
            kinds[kind][:count],
            voxel_size_angstrom=10.0,
            box=24,
            tilt_range_deg=(-60.0, 60.0),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return jobs.refine(
                jobs.ListOptions(listed),
                reference=folder / reference,
                output=folder / f"{kind}_{count}_{reference[:3]}",
                split=True,
                iterations=iterations,
                run=jobs.RunOptions(threads=1),
            )

    return run


@pytest.mark.slow
def test_real_runs_get_the_verdict_that_they_deserve(runs):
    good, noise = runs("real", 56, "reference.mrc", iterations=4), runs("noise", 56, "reference.mrc", iterations=1)
    assert grades(good.verdict) == {} and good.verdict.grade is Grade.GOOD, good.verdict.sentence
    assert noise.verdict.grade is not Grade.GOOD
    assert {"halves", "particles"} <= set(grades(noise.verdict))
    inverted, few = runs("real", 16, "inverted.mrc", iterations=1), runs("real", 6, "reference.mrc", iterations=1)
    assert inverted.verdict.grade is Grade.WRONG
    assert "contrast" in grades(inverted.verdict)
    assert few.verdict.grade is Grade.DOUBTFUL
    assert "number" in grades(few.verdict)
