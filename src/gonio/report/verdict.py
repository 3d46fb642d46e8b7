"""The verdict of a page: what its numbers allow to be said of a run, by checks that are stated.

Flow: numbers that a job measured (``Evidence``) -> one ``Check`` for each rule that they suffice for -> ``Verdict``,
which is as good as the worst of its checks and whose sentence is theirs. What the numbers cannot show is doubtful,
never good. docs/report.md lists the rules, and runs that they were tried on; thresholds are judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import betaincinv

# Standard errors of the mean contrast of a sample of particles from which it is certain.
CONTRAST_SURE = 4.0
# Halves must agree this many shells, one over the box wide, beyond what they were given in common: boxes of noise come
# back to it by half a shell (docs/refinement.md).
SHELLS_BEYOND = 1.0
# Fractions of a list that are false by the decoys of a sample, at most: good, good even at the end of the interval, and
# doubtful. With noise alone 2 of 3 lose to 2 decoys, all of which are false.
FALSE_GOOD, SURELY_BELOW, FALSE_DOUBTFUL = 0.25, 0.5, 0.75
# Fraction of a sample that finds its orientation again in the other half's map, at least: good.
SAME_GOOD = 0.6
# Asymmetric units in the smaller half, at least: the agreement of fewer rests on single particles.
FEWEST = 25
# Fraction of shifts at their limit, at most, and how near to the limit that is.
AT_LIMIT, NEAR_LIMIT = 0.1, 0.95
# Weight of the least covered direction, over the mean of all, at least.
LEAST_COVERED = 0.2
# Rise of an FSC after its fall through 0.143.
RISE = 0.35
# Silhouette of several classes, at least: gonio.workflows.clustering proposes them from it on.
SILHOUETTE = 0.6
# Likeness of the two classes most alike, at most: 0.52 to 0.58 of two phantoms at SNR 1 and 0.2, 1 of one particle.
MOST_LIKE = 0.8
# Log-likelihood difference (20 to 1) from which a class is clear, and the least fraction of such particles.
CLEAR, CLEAR_GOOD = 3.0, 0.5
# Level of the interval of a fraction that a sample estimates.
SURE = 0.9


class Grade(StrEnum):
    """Result of a check, and of all of them."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"


ORDER = (Grade.GOOD, Grade.DOUBTFUL, Grade.WRONG)


@dataclass(frozen=True)
class Check:
    """One rule applied: its name, what was found, as a clause of a sentence, the rule, and what to do if it fails."""

    name: str
    grade: Grade
    found: str
    rule: str
    remedy: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks of a run."""

    checks: tuple[Check, ...]

    @property
    def grade(self) -> Grade:
        """Grade of the worst check; doubtful without any."""
        return max((one.grade for one in self.checks), key=ORDER.index, default=Grade.DOUBTFUL)

    @property
    def deciding(self) -> tuple[Check, ...]:
        """Checks of that grade, in order."""
        return tuple(one for one in self.checks if one.grade is self.grade)

    @property
    def sentence(self) -> str:
        """The verdict and why, in one sentence."""
        if not self.checks:
            return "Doubtful: nothing was measured that speaks for this result."
        reasons = "; ".join(one.found for one in self.deciding[:MOST_REASONS])
        return f"{self.grade.capitalize()}: {reasons}."

    def __str__(self) -> str:
        return self.sentence


# Reasons in a sentence; the table of checks has all.
MOST_REASONS = 3


@dataclass(frozen=True)
class Competing:
    """A sample of ``count`` particles, of which ``lost`` fit one of ``decoys`` decoys of the map as well as the map.

    ``same`` of them find their orientation again in a map of other particles; None where there is none. ``alike`` where
    the decoys show the map's own detail, so that they say nothing.
    """

    count: int
    lost: int
    decoys: int
    same: int | None = None
    alike: bool = False

    @property
    def false(self) -> tuple[float, float, float]:
        """Fraction of the list that is false, or too noisy to be told from false: estimate, and an interval of 90 %.

        Of K decoys and the map each is the best for a false particle by chance, so that K of K + 1 lose.
        """
        factor, n, k = 1.0 + 1.0 / self.decoys, self.count, self.lost
        low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, (1.0 - SURE) / 2.0))
        high = 1.0 if k == n else float(betaincinv(k + 1, n - k, (1.0 + SURE) / 2.0))
        return min(1.0, factor * k / n), min(1.0, factor * low), min(1.0, factor * high)


@dataclass(frozen=True)
class Divided:
    """Classes of a list; None for what was not or cannot be measured.

    Attributes
    ----------
    units
        Number of asymmetric units of each class, 0 of an empty one.
    silhouette
        Silhouette of these classes; of one class, the best of those of several.
    likeness
        How alike the two classes are that are most alike (``gonio.workflows.class_differences``), from halves that
        never saw one another.
    clear
        Fraction of particles that fit their class clearly better than the next.
    unfinished
        Why the last iteration is not the end; empty where it is.
    """

    units: Sequence[int]
    silhouette: float | None = None
    likeness: float | None = None
    clear: float | None = None
    unfinished: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What a job measured; None for what it did not or could not.

    Attributes
    ----------
    units_in_half
        Number of asymmetric units in the smaller half set.
    contrast_t
        How well particles of any pose agree with the round part of the reference, in standard errors: below 0 one is
        dark where the other is bright.
    map_contrast
        Density of the map in its middle less that around it, in standard deviations of the latter.
    shared_angstrom
        Detail to which both halves were given one map; None where they were given nothing in common.
    resolution_angstrom, box_angstrom
        Where the halves' agreement ends, infinite for nowhere, and the edge of their box.
    apart
        Whether the halves never saw one another; None where that is not known, False where both were aligned to one
        map.
    fsc
        FSC of the halves, shell by shell.
    competing
        Sample of particles that were aligned to decoys of the map, too.
    at_limit
        Fraction of particles whose shift is at its limit.
    covered
        Weight of the least covered direction over the mean.
    unfinished
        Why the last iteration is not the end; empty where it is.
    warnings
        Warnings of the inputs, each a short name, what is suspicious, and the remedy.
    classes
        Classes of the list, where these are judged.
    """

    units_in_half: int | None = None
    contrast_t: float | None = None
    map_contrast: float | None = None
    shared_angstrom: float | None = None
    resolution_angstrom: float | None = None
    box_angstrom: float | None = None
    apart: bool | None = None
    fsc: Sequence[float] | None = None
    competing: Competing | None = None
    at_limit: float | None = None
    covered: float | None = None
    unfinished: str | None = None
    warnings: Sequence[tuple[str, str, str]] = ()
    classes: Divided | None = None


def verdict_of(evidence: Evidence, *, needs_decoys: bool = True) -> Verdict:
    """Apply every rule that the evidence suffices for; ``needs_decoys`` where poses are judged, too."""
    found = [rule(evidence) for rule in RULES]
    if needs_decoys and evidence.competing is None:
        found.insert(0, _check("particles", Grade.DOUBTFUL, UNTESTED, DECOYS_RULE, UNTESTED_REMEDY))
    return Verdict((*(one for one in found if one is not None), *_warned(evidence)))


UNTESTED = "whether the particles show this map was not tested"
UNTESTED_REMEDY = "gonio align --decoys 2 tests it"
DECOYS_RULE = (
    f"by a sample that is also aligned to decoys of the map at most {100 * FALSE_GOOD:.0f} % of the list should be"
    f" false, surely less than {100 * SURELY_BELOW:.0f} % (most likely over {100 * FALSE_DOUBTFUL:.0f} %: wrong)"
)


def _check(name: str, grade: Grade, found: str, rule: str, remedy: str = "") -> Check:
    return Check(name, grade, found, rule, "" if grade is Grade.GOOD else remedy)


def _contrast(evidence: Evidence) -> Check | None:
    rule = f"the mean contrast of a sample must not be opposite by {CONTRAST_SURE:g} standard errors"
    remedy = "pass --invert if the particles are dark, or invert the map"
    t = evidence.contrast_t
    if t is None or not np.isfinite(t):
        return None
    if t <= -CONTRAST_SURE:
        found = f"particles are dark where the reference is bright, or the reverse ({-t:.0f} standard errors)"
        return _check("contrast", Grade.WRONG, found, rule, remedy)
    found = f"particles are bright where the reference is ({t:.0f} standard errors)"
    if t < CONTRAST_SURE:  # too noisy, or of a microscope that leaves little at low resolution: other checks decide
        found = f"the contrast of particles and reference is not opposite ({t:+.1f} standard errors)"
    return _check("contrast", Grade.GOOD, found, rule)


def _map_contrast(evidence: Evidence) -> Check | None:
    value = evidence.map_contrast
    if value is None or not np.isfinite(value):
        return None
    rule = "the middle of the map must not be darker than what is around it"
    if value < -1.0:
        found = f"the map is dark in its middle ({value:.1f} standard deviations of what is around it)"
        remedy = "pass --invert if particles are dark; shells as wide as the box look so, too"
        return _check("density", Grade.DOUBTFUL, found, rule, remedy)
    return _check("density", Grade.GOOD, "the map is bright in its middle", rule)


def _halves(evidence: Evidence) -> Check | None:
    resolution, box = evidence.resolution_angstrom, evidence.box_angstrom
    if evidence.apart is False or resolution is None or not box:
        return None
    shared = evidence.shared_angstrom
    rule = "halves that never saw one another must agree one shell beyond the detail that both were given"
    if shared is None:
        rule = "halves that never saw one another must agree in three shells"
    begun = 2.0 if shared is None else box / shared
    reached = box / resolution
    if reached < begun + SHELLS_BEYOND:
        given = "" if shared is None else f", no further than the {shared:.0f} angstrom that both were given"
        agreed = f"agree to {resolution:.1f} angstrom" if np.isfinite(resolution) else "agree nowhere"
        found = f"the two halves {agreed}{given}: no evidence that the particles show this map"
        return _check("halves", Grade.DOUBTFUL, found, rule, "more particles, or other inputs")
    given = "" if shared is None else f", beyond the {shared:.0f} that both were given"
    if evidence.apart is None:
        found = f"whether the halves, which agree to {resolution:.1f} angstrom, ever saw one another is not known"
        return _check("halves", Grade.DOUBTFUL, found, rule, "halves that were refined apart, from gonio refine")
    found = f"two halves that never saw one another agree to {resolution:.1f} angstrom{given}"
    return _check("halves", Grade.GOOD, found, rule)


def _competing(evidence: Evidence) -> Check | None:
    sample = evidence.competing
    if sample is None:
        return None
    if sample.alike:
        found = "the map has too little detail for decoys, so that whether the particles show it cannot be tested"
        return _check("particles", Grade.DOUBTFUL, found, DECOYS_RULE, "a finer --resolution, or a larger particle")
    false, low, high = sample.false
    interval = f"{100 * low:.0f} to {100 * high:.0f} %"
    won = sample.count - sample.lost
    what = f"{won} of {sample.count} sampled particles fit the map better than its decoys"
    if false > FALSE_DOUBTFUL:
        found = f"only {what}: most are of something else, or their poses are wrong"
        return _check("particles", Grade.WRONG, found, DECOYS_RULE, "another reference, other picks, or less noise")
    remedy = "gonio align --decoys 2 lists those that are real; another reference if there are few"
    if false > FALSE_GOOD:
        chance = sample.count / (sample.decoys + 1)
        found = (
            f"only {what}, {chance:.0f} would by chance: {interval} of the list are false, or too noisy to be told"
            " from false ones, or the map is of something else"
        )
        return _check("particles", Grade.DOUBTFUL, found, DECOYS_RULE, remedy)
    if high >= SURELY_BELOW:
        found = f"{what}, too few to tell: up to {100 * high:.0f} % of the list may be false"
        return _check("particles", Grade.DOUBTFUL, found, DECOYS_RULE, remedy)
    return _check("particles", Grade.GOOD, what, DECOYS_RULE)


def _same(evidence: Evidence) -> Check | None:
    sample = evidence.competing
    if sample is None or sample.same is None:
        return None
    rule = f"of the sample {100 * SAME_GOOD:.0f} % should find their orientation again in the other half's map"
    what = f"{sample.same} of {sample.count} sampled particles find their orientation again in the other half's map"
    good = sample.same >= SAME_GOOD * sample.count
    remedy = "another reference or a mask that fits; more particles; a finer start"
    if good:
        return _check("orientations", Grade.GOOD, what, rule)
    return _check("orientations", Grade.DOUBTFUL, f"only {what}", rule, remedy)


def _number(evidence: Evidence) -> Check | None:
    units = evidence.units_in_half
    if units is None:
        return None
    rule = f"at least {FEWEST} asymmetric units in the smaller half: the agreement of fewer rests on single particles"
    if units < FEWEST:
        found = f"there are only {units} asymmetric units in the smaller half, too few for an FSC to be relied on"
        return _check("number", Grade.DOUBTFUL, found, rule, "more particles")
    return _check("number", Grade.GOOD, f"{units} asymmetric units in the smaller half", rule)


def _limit(evidence: Evidence) -> Check | None:
    fraction = evidence.at_limit
    if fraction is None:
        return None
    rule = f"at most {100 * AT_LIMIT:.0f} % of shifts at their limit"
    found = f"{100 * fraction:.0f} % of shifts are at their limit"
    grade = Grade.GOOD if fraction <= AT_LIMIT else Grade.DOUBTFUL
    return _check("shifts", grade, found, rule, "a larger --max-shift, or better picks")


def _coverage(evidence: Evidence) -> Check | None:
    worst = evidence.covered
    if worst is None or not np.isfinite(worst):
        return None
    rule = f"the least covered direction has at least {LEAST_COVERED:g} of the mean weight"
    found = f"the least covered direction has {worst:.2f} of the mean weight"
    grade = Grade.GOOD if worst >= LEAST_COVERED else Grade.DOUBTFUL
    return _check("coverage", grade, found, rule, "the map is blurred there: particles of other views")


def _shape(evidence: Evidence) -> Check | None:
    if evidence.fsc is None or evidence.apart is False:
        return None
    fsc = np.asarray(evidence.fsc, dtype=np.float64)
    fallen = np.flatnonzero(fsc[1:] < 0.143) + 1
    rise = float(fsc[fallen[0] :].max()) if len(fallen) else 0.0
    rule = f"the FSC stays below {RISE:g} once it has fallen below 0.143"
    if rise > RISE:
        found = f"the FSC rises to {rise:.2f} again after its fall"
        remedy = "duplicates in both halves, a mask that is too tight, or one noise in both"
        return _check("FSC", Grade.DOUBTFUL, found, rule, remedy)
    found = "the FSC falls once" if len(fallen) else "the FSC does not fall below 0.143 in voxels of this size"
    return _check("FSC", Grade.GOOD, found, rule)


def _finished(evidence: Evidence) -> Check | None:
    if evidence.unfinished is None:
        return None
    rule = "the last iteration must be near the end: the median particle moves by less than its standard deviation"
    if evidence.unfinished:
        return _check("iterations", Grade.DOUBTFUL, evidence.unfinished, rule, "more --iterations")
    return _check("iterations", Grade.GOOD, "the poses have come to an end", rule)


def _sizes(evidence: Evidence) -> Check | None:
    if evidence.classes is None:
        return None
    units = evidence.classes.units
    rule = f"at least {FEWEST} asymmetric units in each class: the map of fewer rests on single particles"
    empty = [number for number, count in enumerate(units, start=1) if not count]
    if empty:
        found = f"no particle shows class {', '.join(map(str, empty))}"
        return _check("size", Grade.DOUBTFUL, found, rule, "fewer classes, or other references")
    found = f"the smallest class has {min(units)} asymmetric units"
    if min(units) < FEWEST:
        return _check("size", Grade.DOUBTFUL, f"{found}, too few to rely on", rule, "more particles, or fewer classes")
    return _check("size", Grade.GOOD, found, rule)


def _silhouette(evidence: Evidence) -> Check | None:
    classes = evidence.classes
    if classes is None or classes.silhouette is None:
        return None
    rule = f"several classes have a silhouette of {SILHOUETTE:g} or more; one class, no division that has"
    found, divided = f"a silhouette of {classes.silhouette:.2f}", classes.silhouette >= SILHOUETTE
    if len(classes.units) == 1:
        what = f"the best division has {found}"
        grade = Grade.DOUBTFUL if divided else Grade.GOOD
        return _check("silhouette", grade, what, rule, "gonio classify with --classes auto")
    if divided:
        return _check("silhouette", Grade.GOOD, f"the classes have {found}", rule)
    found = f"the classes have {found} only: one kind that is split has as much"
    return _check("silhouette", Grade.DOUBTFUL, found, rule, "fewer classes, or less noise")


def _differences(evidence: Evidence) -> Check | None:
    classes = evidence.classes
    if classes is None or sum(count > 0 for count in classes.units) < 2:
        return None
    rule = (
        f"a half of one class agrees with the other half of another at most {MOST_LIKE:g} times as well as the halves"
        " of each, which never saw one another; or all pairs were aligned"
    )
    if classes.likeness is None:
        found = "whether the classes differ by more than noise was not measured: no halves that never met agree"
        remedy = "a list with half sets, as of gonio refine, or more particles"
        return None if classes.silhouette is not None else _check("difference", Grade.DOUBTFUL, found, rule, remedy)
    what = f"the two classes most alike agree {classes.likeness:.2f} times as well as their own halves"
    if classes.likeness <= MOST_LIKE:
        return _check("difference", Grade.GOOD, what, rule)
    found = f"{what}: they may show one particle"
    return _check("difference", Grade.DOUBTFUL, found, rule, "fewer classes")


def _clear(evidence: Evidence) -> Check | None:
    if evidence.classes is None or evidence.classes.clear is None:
        return None
    fraction = evidence.classes.clear
    rule = f"{100 * CLEAR_GOOD:.0f} % of particles fit their class 20 times as likely as the next"
    found = f"{100 * fraction:.0f} % of particles fit their class clearly better than the next"
    grade = Grade.GOOD if fraction >= CLEAR_GOOD else Grade.DOUBTFUL
    return _check("assignment", grade, found, rule, "fewer classes, or less noise")


def _settled(evidence: Evidence) -> Check | None:
    if evidence.classes is None or evidence.classes.unfinished is None:
        return None
    rule = "no particle changes its class in the last iteration, and poses move by less than a tenth of a voxel"
    if evidence.classes.unfinished:
        return _check("iterations", Grade.DOUBTFUL, evidence.classes.unfinished, rule, "other or fewer references")
    return _check("iterations", Grade.GOOD, "classes and poses have come to an end", rule)


def _warned(evidence: Evidence) -> list[Check]:
    rule = "inputs should give no warning"
    return [
        Check(name, Grade.DOUBTFUL, what, rule, remedy)
        for name, what, remedy in evidence.warnings
        if name != "opposite contrast" or evidence.contrast_t is None
    ]


# In the order in which they are named: what makes all else worthless comes first.
RULES: tuple[Callable[[Evidence], Check | None], ...] = (
    _contrast,
    _halves,
    _competing,
    _same,
    _number,
    _map_contrast,
    _shape,
    _finished,
    _limit,
    _coverage,
    _differences,
    _silhouette,
    _sizes,
    _clear,
    _settled,
)
