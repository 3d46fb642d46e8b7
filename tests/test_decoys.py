"""Decoys tell which particles are real: the statistics alone, the maps, and lists with false particles among them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gonio
from gonio import Aligner, Pose, Settings, Subtomogram, Volume
from gonio.alignment.decoys import Competition, Decoys, compete, q_values, scrambled_volume, self_likeness
from gonio.alignment.particle_list import ParticleError
from gonio.cli.app import run
from gonio.fourier.fsc import half_shells
from gonio.particle.volume import sphere_of
from gonio.particle.wedge import SingleAxisWedge
from gonio.run.checkpoint import Checkpoint
from gonio.run.executor import Checkpointed, Local
from gonio.simulate import Phantom
from listed import aligner, listed

pytestmark = pytest.mark.slow

BOX, VOXEL = 20, 16.0
SCORES = arrays(np.float64, (12, 3), elements=st.integers(0, 50_000).map(float))


def phantom(name):
    density = Phantom.named(name, box=BOX, voxel_size_angstrom=VOXEL)
    return Volume(density.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL)


def handed():
    """A map without any symmetry."""
    noise = np.random.default_rng(1).normal(size=(BOX,) * 3)
    return Volume((noise * sphere_of(BOX, VOXEL, 0.6 * BOX * VOXEL)).astype(np.float32), VOXEL)


def naive(target, decoys):
    """The definition, threshold by threshold."""
    score, won = np.maximum(target, decoys.max(axis=1)), target > decoys.max(axis=1)
    q = np.ones(len(target))
    for i in np.flatnonzero(won):
        passed = [t for t in score if t <= score[i]]
        rates = [(1 + np.sum(~won & (score >= t))) / (decoys.shape[1] * np.sum(won & (score >= t))) for t in passed]
        q[i] = min(1.0, *rates)
    return q


@given(SCORES)
def test_q_is_what_its_definition_says(scores):
    target, decoys = scores[:, 0], scores[:, 1:]
    np.testing.assert_allclose(q_values(target, decoys), naive(target, decoys))


@given(SCORES, st.permutations(range(12)), st.integers(-1000, 1000))
def test_neither_order_nor_origin_of_the_scores_matters(scores, order, origin):
    target, decoys = scores[:, 0], scores[:, 1:]
    q = q_values(target, decoys)
    np.testing.assert_array_equal(q_values(target[order], decoys[order][:, ::-1]), q[order])
    np.testing.assert_array_equal(q_values(target + origin, decoys + origin), q)


def simulated_scores(rng, *, real, false, count):
    """Real particles beat their decoys by about three standard deviations; false ones fit all maps alike."""
    scores = rng.gamma(2.0, 1.5, size=(real + false, 1 + count))
    scores[:, :] += rng.gamma(2.0, 1.0, size=(real + false, 1))  # some fit everything better
    scores[:real, 0] += rng.normal(9.0, 3.0, size=real)
    return scores[:, 0], scores[:, 1:]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("real", [0, 60, 140])
def test_the_false_fraction_is_what_was_asked_for(rng, count, real):
    """FDR is a mean over experiments: at most q, within four standard errors of the mean."""
    most, false, shares = 0.1, 60, []
    for _ in range(400):
        q = q_values(*simulated_scores(rng, real=real, false=false, count=count))
        kept = np.flatnonzero(q <= most)
        shares.append(np.mean(kept >= real) if len(kept) else 0.0)
    assert np.mean(shares) <= most + 4 * np.std(shares) / np.sqrt(len(shares))
    if real:
        # The estimate is no excuse to keep little: D + 1 for D costs a particle or two, true ones that lose some.
        assert np.mean(shares) > 0.3 * most


def test_most_real_particles_are_kept(rng):
    q = q_values(*simulated_scores(rng, real=700, false=300, count=2))
    assert np.mean(q[:700] <= 0.05) > 0.8


def test_a_particle_that_fits_a_decoy_as_well_has_no_claim():
    assert q_values([5.0, 9.0, 9.0], [[5.0], [1.0], [2.0]])[0] == 1.0


@pytest.mark.parametrize(
    ("target", "decoys"), [([1.0], [[1.0], [2.0]]), ([1.0, 2.0], np.empty((2, 0))), ([np.nan], [[1.0]])]
)
def test_scores_that_do_not_fit_are_refused(target, decoys):
    with pytest.raises(ValueError, match=r"shapes|finite"):
        q_values(target, decoys)


def test_a_scrambled_map_has_power_shape_and_support_of_the_reference(rng):
    reference, support = phantom("sharp"), sphere_of(BOX, VOXEL, 0.7 * BOX * VOXEL)
    made = [scrambled_volume(reference, support, kept_shells=2, rng=rng) for _ in range(2)]
    shells, times = half_shells(BOX)

    def spectrum(volume):
        return np.fft.rfftn(volume.data.astype(np.float64), axes=(0, 1, 2)).ravel()

    def per_shell(values):
        return np.bincount(shells, weights=times * values)[1 : BOX // 2]

    first, second, true = (spectrum(v) for v in (*made, reference))
    power = per_shell(np.abs(first) ** 2) / per_shell(np.abs(true) ** 2)
    # The sphere has the last word, which the iterations leave little to say.
    assert np.all((power > 0.5) & (power < 1.5))
    agreement = per_shell((first * true.conj()).real) / np.sqrt(
        per_shell(np.abs(first) ** 2) * per_shell(np.abs(true) ** 2)
    )
    assert agreement[:2].min() > 0.95  # shells 1 and 2: the shape
    assert np.abs(agreement[5:]).max() < 0.3  # some hundred samples: chance correlates them by 0.1
    between = per_shell((first * second.conj()).real) / np.sqrt(
        per_shell(np.abs(first) ** 2) * per_shell(np.abs(second) ** 2)
    )
    assert np.abs(between[5:]).max() < 0.3
    assert np.abs(made[0].data[support == 0]).max() == 0


def test_a_mirror_image_is_a_decoy_only_where_it_differs(rng):
    chiral = Decoys.of(Aligner(handed()), 2, rng=rng)
    flat = Decoys.of(Aligner(phantom("four_gaussians")), 2, rng=rng)  # four points in a plane
    assert chiral.kinds == ("mirror", "phases")
    assert flat.kinds == ("phases", "phases")
    assert flat.likeness > 0.98 > 0.5 > chiral.likeness


def seen_to(name, scale, resolution):
    """A map that is compared to a coarse resolution."""
    density = Phantom.named(name, box=BOX, voxel_size_angstrom=scale * VOXEL).unframed()
    volume = Volume(density.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL)
    return Aligner(volume.low_passed(resolution), Settings(resolution_angstrom=resolution))


def test_decoys_of_a_coarse_map_differ_from_it_and_from_one_another():
    """Phases up to 2 L / D are nearly all that is compared of it: kept, they made the map again."""
    made = Decoys.of(seen_to("sharp", 1.0, 64.0), 2, rng=np.random.default_rng(0))
    assert made.kinds == ("phases", "phases")
    assert not made.alike
    one, two = (decoy.reference.volume.data.ravel() for decoy in made.aligners)
    assert np.corrcoef(one, two)[0, 1] < 0.98


def test_a_map_with_too_little_detail_has_no_decoys_and_says_so(rng):
    assert Decoys.of(seen_to("sharp", 0.5, 75.0), 2, rng=rng).alike


def test_a_map_is_like_itself_at_any_pose(rng):
    map_ = phantom("sharp")
    density = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)
    turned = density.density(Pose.random(1, rng=rng, max_shift_angstrom=16.0)[0], box=BOX, voxel_size_angstrom=VOXEL)
    assert self_likeness(map_, Aligner(Volume(turned, VOXEL))) > 0.99


def test_decoys_of_a_symmetric_map_have_its_symmetry(rng):
    from gonio.fourier.fourier_volume import moved
    from gonio.particle.symmetry import Symmetry

    map_, group = phantom("sharp"), Symmetry.named("C4").matrices
    whole = Volume(np.mean([moved(map_, g, np.zeros(3)).data for g in group], axis=0), VOXEL)
    decoy = Decoys.of(Aligner(whole, Settings(symmetry="C4")), 2, rng=rng).aligners[1].reference.volume
    turned = moved(decoy, group[1], np.zeros(3)).data
    assert np.corrcoef(decoy.data.ravel(), turned.ravel())[0, 1] > 0.98


def test_a_reference_with_a_wedge_has_no_decoys(rng):
    with pytest.raises(ValueError, match="missing wedge"):
        Decoys.of(Aligner(Subtomogram(phantom("sharp"), SingleAxisWedge(-60, 60))), 1, rng=rng)


def test_the_mirror_of_a_map_with_a_normal_has_the_mirrored_normal(rng):
    reference = Subtomogram(handed(), normal_xyz=np.array([0.6, 0.0, 0.8]))
    decoy = Decoys.of(Aligner(reference, Settings(search="axis")), 1, rng=rng).aligners[0]
    np.testing.assert_allclose(decoy.reference.normal_xyz, [-0.6, 0.0, 0.8])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A list of four particles; the second half shows nothing but noise."""
    from gonio.io import read_volume, write_volume

    folder = tmp_path_factory.mktemp("decoys") / "sim"
    table = listed(folder, 4)
    rng = np.random.default_rng(5)
    for row in (2, 3):
        path = table.files_of(row)[0]
        old = read_volume(path)
        write_volume(path, Volume(rng.normal(size=old.data.shape).astype(np.float32), old.voxel_size_angstrom))
    return folder


def test_real_particles_beat_their_decoys_and_noise_does_so_by_chance(noisy, rng, tmp_path):
    table, target = listed(noisy, 4), aligner(noisy)
    truth = listed(noisy, 4, "truth.star").poses
    decoys = Decoys.of(target, 2, rng=rng)
    alone = compete(table, target, decoys, truth)
    lead = alone.target - alone.best_decoy
    assert lead[:2].min() > 5 * np.abs(lead[2:]).max()
    for make in (Checkpoint.create, Checkpoint.resume):  # the second time all is read
        checkpoint = make(tmp_path / "journal", {})
        again = compete(table, target, decoys, truth, executor=Checkpointed(Local(2), checkpoint))
        checkpoint.close()
        np.testing.assert_array_equal(again.target, alone.target)
        np.testing.assert_array_equal(again.decoys, alone.decoys)


def test_decoys_of_a_local_search_are_looked_for_everywhere(noisy):
    """A start was chosen for the reference: its decoys get the same choice, or the reference would win by it alone."""
    table, truth = listed(noisy, 4)[:1], listed(noisy, 4, "truth.star").poses[:1]
    local = aligner(noisy, Settings(search="local"))
    made = ((one, Decoys.of(one, 1, rng=np.random.default_rng(0))) for one in (local, aligner(noisy)))
    found = (compete(table, one, decoys, truth).decoys for one, decoys in made)
    np.testing.assert_array_equal(*found)


def test_tilt_stacks_are_judged_as_subtomograms_are(rng):
    from gonio.simulate import Imaging, simulate_tilt_stack

    density, imaging = (
        Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL),
        Imaging(box=BOX, voxel_size_angstrom=VOXEL, tilt_step_deg=20.0, snr=0.3),
    )
    truth = Pose.random(2, rng=rng, max_shift_angstrom=16.0)
    stack = simulate_tilt_stack(density, truth[0], imaging=imaging, rng=rng)
    empty = replace(stack, images=rng.normal(size=stack.images.shape).astype(np.float32))
    target = Aligner(phantom("sharp"))
    found = compete(Held([stack, empty]), target, Decoys.of(target, 1, rng=rng), truth)
    assert found.target[0] - found.best_decoy[0] > 2 * abs(found.target[1] - found.best_decoy[1])


class Held:
    """Particles that are at hand, as a list."""

    def __init__(self, particles):
        self.particles = particles
        self.names = [f"held {row}" for row in range(len(particles))]

    def __len__(self):
        return len(self.particles)

    def load(self, row):
        return self.particles[row]

    def image(self, row):
        return None


def test_an_error_names_the_particle(noisy, rng, tmp_path):
    table, target = listed(noisy, 4)[:1], aligner(noisy)
    other = Aligner(Volume(np.random.default_rng(0).normal(size=(BOX,) * 3), 3.0))
    with pytest.raises(ParticleError, match=table.names[0].replace(".", r"\.")):
        compete(table, other, replace(Decoys.of(target, 1, rng=rng), aligners=(other,)), Pose.stack([Pose.identity()]))


def test_a_competition_knows_its_best_decoy():
    found = Competition(np.array([5.0, 1.0]), np.array([[1.0, 2.0], [3.0, 0.0]]))
    np.testing.assert_array_equal(found.best_decoy, [2.0, 3.0])
    np.testing.assert_array_equal(found.q, [0.5, 1.0])  # 1 / (K T), and a particle that lost


def decoy_words(folder, out, *more):
    words = ["align", f"{folder}/particles.star", "--reference", f"{folder}/reference.mrc", "-o", str(out)]
    return [*words, "--threads", "1", *more]


def test_a_list_says_which_of_its_particles_are_real(noisy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])
    out = tmp_path / "out"
    # Two real particles and three decoys: no q-value lies below 1 / 6.
    assert run(decoy_words(noisy, out, "--decoys", "3", "--max-q", "0.2")) == 0
    every, kept = (gonio.read_particles(out / f"{name}.star") for name in ("particles", "kept"))
    assert len(every) == 4
    real = every.columns["log_likelihood"] > 2 * every.columns["decoy_log_likelihood"]
    np.testing.assert_array_equal(real, [True, True, False, False])
    np.testing.assert_allclose(every.columns["q_value"][:2], 1 / 6, rtol=1e-6)
    assert kept.names == every.names[:2]
    told = json.loads((out / "summary.json").read_text())
    assert told["kept"] == 2
    assert "which particles are real" in (out / "report.html").read_text().lower()
    again = tmp_path / "again"
    words = ["align", f"{out}/particles.star", "--reference", f"{noisy}/reference.mrc", "-o", str(again)]
    assert run([*words, "--threads", "1"]) == 0
    assert "QValue" not in (again / "particles.star").read_text()  # of other poses
    assert not (again / "kept.star").exists()


def test_a_list_of_which_nothing_can_be_kept_says_so(noisy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])
    assert run(decoy_words(noisy, tmp_path / "out", "--decoys", "1")) == 0
    assert "no q-value of 4 particles and 1 decoys can be below 0.25" in capsys.readouterr().err
    assert "No particle has a q-value up to 0.05" in (tmp_path / "out" / "kept.star").read_text()


def test_decoys_that_say_nothing_are_reported_and_leave_the_verdict_doubtful(noisy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])
    monkeypatch.setattr("gonio.alignment.decoys.MOST_ALIKE", 0.05)  # of a map with detail enough
    assert run(decoy_words(noisy, tmp_path / "out", "--decoys", "2", "--max-q", "0.5")) == 0
    printed = capsys.readouterr()
    assert "of the reference's detail, so that false particles may fit it" in printed.err
    assert "too little detail for decoys" in json.loads((tmp_path / "out" / "summary.json").read_text())["verdict_why"]


@pytest.mark.parametrize(
    ("more", "said"), [(("--max-q", "0.1"), "needs --decoys"), (("--decoys", "1", "--max-q", "2"), "between 0 and 1")]
)
def test_options_of_decoys_that_do_not_fit_are_refused(noisy, tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])
    assert run(decoy_words(noisy, tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
