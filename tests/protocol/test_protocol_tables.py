"""From chosen runs to numbers: estimates, tests, the gap closed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hand_made import record
from scipy import stats

from scmd.protocol.model_selection import choose
from scmd.protocol.statistics import estimate_mean, holm, paired_p_value
from scmd.protocol.tables import MEAN, Grid, class_means, compare, gap_closed, grid


@pytest.mark.parametrize("values", [[0.5, 0.7], [0.61, 0.64, 0.6], list(np.linspace(0, 1, 9) ** 2)])
def test_mean_error_and_interval(values):
    found = estimate_mean(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.error == pytest.approx(stats.sem(values))
    interval = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(interval)
    # DomainBed prints the error of ddof 0; the interval does not depend on what is printed.
    other = estimate_mean(values, ddof=0)
    assert other.error == pytest.approx(np.std(values) / math.sqrt(len(values)))
    assert (other.low, other.high) == (found.low, found.high)


def test_two_trials_in_closed_form():
    found = estimate_mean([0.5, 0.7])
    assert found.error == pytest.approx(0.1)  # half the difference
    assert found.high - found.mean == pytest.approx(0.1 * 12.706, rel=1e-4)  # t of 1 degree


def test_one_trial_has_no_error():
    found = estimate_mean([0.5])
    assert (found.n, found.mean) == (1, 0.5)
    assert all(math.isnan(v) for v in (found.error, found.low, found.high))
    assert estimate_mean([0.5], ddof=0).error == 0.0  # as DomainBed prints it


def test_paired_t_test():
    a, b = [0.6, 0.7, 0.65, 0.8], [0.5, 0.72, 0.6, 0.7]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    assert paired_p_value(differences) == pytest.approx(stats.ttest_rel(a, b).pvalue)  # type: ignore[attr-defined]
    assert paired_p_value([-d for d in differences]) == pytest.approx(paired_p_value(differences))
    assert math.isnan(paired_p_value([0.3]))
    assert math.isnan(paired_p_value([]))
    assert paired_p_value([0.0, 0.0]) == 1
    assert paired_p_value([0.25, 0.25]) == 0
    assert paired_p_value([0.7 - 0.6, 0.8 - 0.7, 0.1]) == 0  # the same but for rounding
    assert paired_p_value([0.3 - 0.1 - 0.2, 0.0]) == 1


def test_holm():
    # Holm's procedure step by step: 4 · 0.005, 3 · 0.01, 2 · 0.03, then never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
    corrected = holm([0.02, math.nan, 0.03])
    assert math.isnan(corrected[1])
    assert [corrected[0], corrected[2]] == pytest.approx([0.04, 0.04])  # of two, not of three


def test_holm_lies_between_the_p_value_and_bonferroni():
    p_values = np.random.default_rng(0).uniform(0, 0.3, 8)
    corrected = np.array(holm(list(p_values)))
    assert (corrected >= p_values).all()
    assert (corrected <= np.minimum(1, 8 * p_values) + 1e-12).all()
    assert (np.argsort(corrected[np.argsort(p_values)], kind="stable") == np.arange(8)).all()


ERM, KD, TEACHER = "erm", "kd", "zero-shot"


def example() -> Grid:
    accuracy = {
        (ERM, "art", 0): 0.5, (ERM, "art", 1): 0.6, (ERM, "photo", 0): 0.7,
        (KD, "art", 0): 0.6, (KD, "art", 1): 0.7, (KD, "photo", 0): 0.8, (KD, "photo", 2): 0.1,
        (TEACHER, "art", 0): 0.9, (TEACHER, "art", 1): 0.9, (TEACHER, "photo", 0): 0.6,
    }  # fmt: skip
    return Grid((ERM, KD, TEACHER), ("art", "photo"), accuracy)


def test_a_mean_is_over_trials_that_have_every_target():
    table = example()
    assert table.trials(ERM, MEAN) == {0: pytest.approx(0.6)}
    assert table.trials(KD, MEAN) == {0: pytest.approx(0.7)}  # trials 1 and 2 lack a target
    assert table.trials(KD, "photo") == {0: 0.8, 2: 0.1}
    estimate = table.estimate(KD, MEAN)
    assert estimate is not None
    assert estimate.n == 1
    assert table.estimate("scmd", "art") is None
    assert table.estimate("scmd", MEAN) is None


def test_a_domain_may_be_called_mean():
    table = Grid((ERM,), ("mean", "photo"), {(ERM, "mean", 0): 0.5, (ERM, "photo", 0): 0.7})
    assert table.trials(ERM, "mean") == {0: 0.5}
    assert table.trials(ERM, MEAN) == {0: pytest.approx(0.6)}


def test_differences_are_of_the_same_target_and_trial():
    kd, teacher = compare(example(), ERM)
    assert (kd.label, kd.pairs, teacher.pairs) == (KD, 3, 3)  # trial 2 has no ERM
    assert kd.difference.mean == pytest.approx(0.1)
    teachers = [0.4, 0.3, -0.1]
    expected = estimate_mean(teachers)
    assert teacher.difference.mean == pytest.approx(expected.mean)
    assert teacher.difference.high == pytest.approx(expected.high)
    assert teacher.p == pytest.approx(stats.ttest_1samp(teachers, 0).pvalue)  # type: ignore[attr-defined]
    assert [kd.p_holm, teacher.p_holm] == holm([kd.p, teacher.p])
    assert compare(example(), "scmd") == []


def test_gap_closed():
    table = example()
    assert gap_closed(table, KD, "art", ERM, TEACHER) == pytest.approx(0.1 / 0.35)
    assert math.isnan(gap_closed(table, KD, "photo", ERM, TEACHER))  # the teacher is below
    assert gap_closed(table, KD, MEAN, ERM, TEACHER) == pytest.approx(0.1 / 0.15)
    assert gap_closed(table, TEACHER, "art", ERM, TEACHER) == pytest.approx(1)
    assert gap_closed(table, ERM, "art", ERM, TEACHER) == 0
    assert math.isnan(gap_closed(table, "scmd", "art", ERM, TEACHER))


def test_a_grid_of_what_was_chosen():
    records = [record("kd", 0.5, target="photo"), record("erm", 0.6), record("erm", 0.8, trial=1)]
    chosen, _ = choose(records, "training")
    table = grid(chosen, "whole")
    assert table.labels == ("kd", "erm")
    assert table.targets == ("art", "photo")
    assert table.accuracy["erm", "art", 1] == 0.8


def test_class_means_are_over_trials():
    records = [record("erm", 0.6), record("erm", 0.8, trial=1), record("kd", 0.1)]
    means = class_means(choose(records, "training")[0])
    assert means["erm", "art"]["cat"] == estimate_mean([0.6, 0.8])
    assert means["kd", "art"]["dog"].mean == 1
