"""Classes are found from all pairs and by references, and are the same whoever does the work."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gonio.alignment.aligner import Aligner
from gonio.alignment.particle_list import ParticleError
from gonio.averaging.averages import average
from gonio.jobs.verdicts import verdict_of_classification
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume, correlation
from gonio.report import Grade
from gonio.run.executor import Local
from gonio.settings import Settings
from gonio.workflows.classification import (
    _FitRow,
    classes_of_clusters,
    classes_of_references,
    classify_pairs,
    random_references,
)
from gonio.workflows.clustering import AllPairs, adjusted_rand_index, cluster
from two_kinds import BOX, EACH, KINDS, SIZE, TRUE, Made, Many, listed, particle, true_map

WRONG_DEG = 15.0  # further off is another optimum


def recoded(stage, function, count, *, keep=True):
    """An executor that knows of its work what travels, and begins at the end."""
    function = pickle.loads(pickle.dumps(function))
    done = {index: pickle.loads(pickle.dumps(function(index))) for index in reversed(range(count))}
    return iter([done[index] for index in range(count)])


@pytest.fixture(scope="module")
def pairs() -> AllPairs:
    return classify_pairs(listed())


@pytest.mark.parametrize("score", ["rcs", "fcs"])
def test_aligned_pairs_tell_classes_that_listed_ones_do_not(pairs, score):
    after, before = (pairs.dissimilarity(score, aligned=aligned) for aligned in (True, False))
    for matrix in (after, before):
        np.testing.assert_array_equal(matrix, matrix.T)
        assert (np.diag(matrix) == 0).all()
        assert (matrix >= 0).all()
        assert (matrix <= 4).all()
    same = (TRUE[:, None] == TRUE) & ~np.eye(len(TRUE), dtype=bool)
    assert after[same].max() < after[TRUE[:, None] != TRUE].min()
    assert before[same].max() > before[TRUE[:, None] != TRUE].min()
    found = cluster(after)
    assert adjusted_rand_index(found.labels, TRUE) == 1.0
    assert found.reason.startswith("2 classes")
    one_kind = cluster(after[:EACH, :EACH])
    assert one_kind.count == 1
    assert "no number of classes" in one_kind.reason


def test_poses_of_pairs_lay_one_on_the_other_either_way(pairs):
    truth = particle(4)[1] @ particle(1)[1].inverse()
    assert pairs.pose(1, 4).rotation_distance_deg(truth) < WRONG_DEG
    assert pairs.pose(4, 1).rotation_distance_deg(truth.inverse()) < WRONG_DEG
    assert pairs.pose(3, 3).rotation_distance_deg(Pose.identity()) == 0.0


def test_listed_poses_are_those_before(pairs):
    true = classify_pairs(listed(known=True), executor=recoded)
    np.testing.assert_array_equal(true.sums[:, 1], pairs.sums[:, 1])  # found without them, and by any executor
    matrix = true.dissimilarity(aligned=False)
    assert adjusted_rand_index(cluster(matrix, 2).labels, TRUE) == 1.0


def test_pairs_that_are_missing_are_missed(pairs):
    with pytest.raises(ValueError, match="some of them are missing"):
        AllPairs.gathered([], 3)


def test_averages_of_classes_show_what_their_particles_do(pairs):
    found = cluster(pairs.dissimilarity())
    classes = classes_of_clusters(listed(), pairs, found, refinements=1)
    np.testing.assert_array_equal(classes.labels, found.labels)
    for one, made in enumerate(classes.averages, start=1):
        members = np.flatnonzero(found.labels == one)
        assert made.count == len(members) == EACH
        assert made.fsc is not None
        # In a frame of its own: particles relative to one another, as they truly are.
        laid = classes.poses[members[1]] @ classes.poses[members[0]].inverse()
        truth = particle(int(members[1]))[1] @ particle(int(members[0]))[1].inverse()
        assert laid.rotation_distance_deg(truth) < WRONG_DEG


def test_a_class_of_one_is_its_particle(pairs):
    alone = cluster(pairs.dissimilarity(), len(TRUE))
    assert alone.count == len(TRUE)
    classes = classes_of_clusters(listed(), pairs, alone, refinements=0)
    assert [made.count for made in classes.averages] == [1] * len(TRUE)


@pytest.mark.parametrize("half_sets", [None, np.tile([1, 2], EACH).astype(np.int8)], ids=["whole", "halves"])
def test_particles_go_to_the_map_they_show(half_sets):
    maps = [true_map(kind) for kind in KINDS]
    table = listed(half_sets=half_sets)
    found = classes_of_references(table, maps, most_rounds=3)
    np.testing.assert_array_equal(found.labels, TRUE)
    assert (found.margin > 0).all()
    assert [made.count for made in found.averages] == [EACH, EACH]
    assert found.rounds[0].moved == len(TRUE)
    assert [one.moved for one in found.rounds[1:]] == [0, 0]
    for one, made in enumerate(found.averages):
        assert correlation(made.volume, maps[one]) > correlation(made.volume, maps[1 - one])
    again = classes_of_references(table, maps, most_rounds=3, executor=recoded)
    np.testing.assert_array_equal(again.poses.matrix, found.poses.matrix)
    np.testing.assert_array_equal(again.margin, found.margin)
    np.testing.assert_array_equal(again.covariance, found.covariance)
    for one, other in zip(found.averages, again.averages, strict=True):
        np.testing.assert_array_equal(one.volume.data, other.volume.data)


def test_a_pose_in_a_class_is_as_sure_as_its_alignment_to_the_map_of_the_class():
    maps, settings = [true_map(kind) for kind in KINDS], Settings(particle_diameter_angstrom=8 * SIZE)
    found = classes_of_references(listed(), maps, settings, most_rounds=1)
    for row in (0, EACH):
        one = Aligner(maps[TRUE[row] - 1], settings).align(particle(row)[0])
        np.testing.assert_array_equal(found.covariance[row], one.covariance)
        assert np.isfinite(one.covariance).all()


def test_particles_are_compared_with_averages_without_themselves(monkeypatch):
    """In the second iteration: each map is the average of the others of its class, but for its fold."""
    compared: list[dict] = []
    prepared = _FitRow.prepare

    def watched(self, row):
        fits = prepared(self, row)
        for k in (fit.k for fit in fits):
            aligner = self.aligners[(k + 1, *self.parts[row])]
            compared.append({"row": row, "class": k + 1, "map": aligner.reference.volume.data})
        return fits

    monkeypatch.setattr(_FitRow, "prepare", watched)
    found = classes_of_references(listed(), [true_map(kind) for kind in KINDS], most_rounds=1)
    np.testing.assert_array_equal(found.labels, TRUE)
    compared.clear()
    classes_of_references(listed(), [true_map(kind) for kind in KINDS], most_rounds=2)
    second = [one for one in compared[len(compared) // 2 :] if one["class"] == TRUE[one["row"]]]
    assert sorted(one["row"] for one in second) == list(range(len(TRUE)))
    for one in second:  # five of a class, so that every fold is one particle
        others = np.setdiff1d(np.flatnonzero(one["class"] == TRUE), [one["row"]])
        mean = average([particle(int(i))[0] for i in others], found.poses[others]).volume
        assert correlation(Volume(one["map"], SIZE), mean) > 1.0 - 1e-5


def test_processes_find_what_one_does():
    maps = [true_map(kind) for kind in KINDS]
    one, two = (classes_of_references(listed(), maps, most_rounds=1, executor=Local(n)) for n in (1, 2))
    np.testing.assert_array_equal(one.poses.matrix, two.poses.matrix)
    np.testing.assert_array_equal(one.labels, two.labels)


def test_a_half_sees_nothing_of_the_other_but_how_far_they_agree():
    """Noise put into half 2 alone changes half 1 by no more than the weight of its shells does."""
    half_sets = np.tile([1, 2], EACH).astype(np.int8)
    maps = [true_map(kind) for kind in KINDS]
    whole = classes_of_references(listed(half_sets=half_sets), maps, most_rounds=2)

    @dataclass(frozen=True)
    class Other(Made):
        def load(self, index: int) -> Subtomogram:
            one = particle(index)[0]
            if half_sets[index] == 1:
                return one
            noise = np.random.default_rng(index).normal(size=one.volume.data.shape) * one.volume.data.std()
            return replace(one, volume=Volume(one.volume.data + noise.astype(np.float32), SIZE))

    other = classes_of_references(replace(listed(half_sets=half_sets), source=Other()), maps, most_rounds=2)
    first = half_sets == 1
    moved = np.asarray(whole.poses.rotation_distance_deg(other.poses))
    assert np.median(moved[first]) < 0.2 * np.median(moved[~first])
    assert moved[first].max() < np.median(moved[~first])


def test_a_map_that_nobody_shows_loses_its_class():
    noise = np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32)
    maps = [true_map("sharp"), Volume(noise, SIZE), true_map("pseudo_symmetric")]
    found = classes_of_references(listed(), maps, most_rounds=2)
    np.testing.assert_array_equal(found.labels, np.where(TRUE == 1, 1, 3))
    assert found.averages[1] is None
    assert found.rounds[-1].counts == (EACH, 0, EACH)


def test_listed_poses_and_chance_are_enough_to_begin():
    table = listed(known=True)
    first = random_references(table, 2, seed=1)
    again = random_references(table, 2, seed=1)
    np.testing.assert_array_equal(first[0].data, again[0].data)
    found = classes_of_references(table, first, Settings(search="local"), most_rounds=8)
    assert adjusted_rand_index(found.labels, TRUE) == 1.0
    assert found.converged


@pytest.mark.parametrize(("kinds", "grade"), [(KINDS, Grade.GOOD), ((KINDS[0],) * 2, Grade.DOUBTFUL)])
def test_classes_of_two_kinds_are_good_and_those_of_one_kind_are_not(kinds, grade):
    table = Many((kinds[0],) * 26 + (kinds[1],) * 26).listed()
    settings, executor = Settings(search="local"), Local()
    found = classes_of_references(table, random_references(table, 2), settings, most_rounds=6)
    verdict = verdict_of_classification(table, found, None, [], settings, warned=[], executor=executor)
    assert verdict.grade is grade, verdict.sentence


def test_a_particle_that_does_not_fit_is_named():
    with pytest.raises(ParticleError, match=r"particle 'p3'.*voxel sizes differ"):
        classes_of_references(listed(broken=(3,)), [true_map("sharp")], most_rounds=1)
    with pytest.raises(ValueError, match="p3"):
        classify_pairs(listed(broken=(3,)))


@pytest.mark.parametrize(("references", "rounds"), [(0, 1), (1, 0)])
def test_nothing_to_do_is_refused(references, rounds):
    with pytest.raises(ValueError, match="at least"):
        classes_of_references(listed(), [true_map("sharp")] * references, most_rounds=rounds)
    with pytest.raises(ValueError, match="1 to 10"):
        random_references(listed(), 11)


def blobs(*sizes: int, apart: float = 1.0) -> np.ndarray:
    """Dissimilarities of groups: 0.1 to 0.3 within, about ``apart`` between."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    within = labels[:, None] == labels
    matrix = np.where(within, 0.2, apart) + rng.uniform(-0.1, 0.1, within.shape)
    matrix = 0.5 * (matrix + matrix.T)
    np.fill_diagonal(matrix, 0.0)
    return matrix


@pytest.mark.parametrize("sizes", [(8,), (6, 5), (20, 12, 3), (7, 7, 7, 7)])
def test_as_many_classes_are_proposed_as_there_are(sizes):
    found = cluster(blobs(*sizes))
    assert found.count == len(sizes)
    assert np.bincount(found.labels)[1:].tolist() == sorted(sizes, reverse=True)
    assert found.reason.startswith(f"{len(sizes)} class")


def test_as_many_classes_are_made_as_are_asked_for():
    matrix = blobs(6, 5)
    assert [cluster(matrix, k).count for k in (1, 2, 5, 11)] == [1, 2, 5, 11]
    assert cluster(np.zeros((1, 1))).count == 1
    assert cluster(np.array([[0.0, 0.3], [0.3, 0.0]])).count == 1


def test_silhouettes_are_those_of_their_definition():
    matrix, found = blobs(3, 3), cluster(blobs(3, 3))
    labels, values = found.labels, []
    for i in range(6):
        own = [matrix[i, j] for j in range(6) if j != i and labels[j] == labels[i]]
        other = [matrix[i, j] for j in range(6) if labels[j] != labels[i]]
        values.append((np.mean(other) - np.mean(own)) / max(np.mean(other), np.mean(own)))
    assert found.silhouettes[2] == pytest.approx(np.mean(values))


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), np.array([[0.0, 1.0], [2.0, 0.0]]), np.full((3, 3), np.nan)])
def test_what_is_no_matrix_of_dissimilarities_is_refused(matrix):
    with pytest.raises(ValueError, match="finite symmetric"):
        cluster(matrix)


def test_more_classes_than_particles_are_refused():
    with pytest.raises(ValueError, match="1 to 4"):
        cluster(blobs(2, 2), 5)


def test_the_rand_index_is_that_of_its_definition():
    assert adjusted_rand_index([1, 1, 2, 2], ["b", "b", "a", "a"]) == 1.0
    assert adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)
    # scikit-learn's example: 2 pairs in common, 2 in one alone.
    assert adjusted_rand_index([0, 0, 1, 2], [0, 0, 1, 1]) == pytest.approx(4 / 7)
