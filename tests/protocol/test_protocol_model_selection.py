"""Which step and draw stand for a method, rule by rule, on records of chosen scores."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hand_made import record, scored

from scmd.protocol.model_selection import RULES, SCORES, Chosen, Rule, Score, choose


def only(records, rule: Rule) -> Chosen:
    chosen, missing = choose(records, rule)
    assert not missing
    (choice,) = chosen
    return choice


def draws() -> list:
    """Three draws: the best holdout at its own step; at the last step; the best on the target."""
    return [
        record(draw=0, lines=[scored(0, 0.8, art=0.1), scored(4, 0.3, art=0.2)]),
        record(draw=1, lines=[scored(0, 0.2, art=0.3), scored(4, 0.7, art=0.4)]),
        record(draw=2, lines=[scored(0, 0.5, art=0.9), scored(4, 0.6, art=(0.5, 0.6, 0.7))]),
    ]


@pytest.mark.parametrize(
    ("rule", "draw", "step", "accuracy"),
    [("training", 0, 0, 0.1), ("last", 1, 4, 0.4), ("oracle", 2, 4, 0.5)],
)
def test_each_rule_has_its_own_choice(rule, draw, step, accuracy):
    for records in (draws(), draws()[::-1]):
        choice = only(records, rule)
        assert (choice.record.draw, choice.step, choice.whole) == (draw, step, accuracy)


def test_every_rule_and_score_is_explained():
    assert set(RULES) == set(get_args(Rule))
    assert set(SCORES) == set(get_args(Score))
    assert "CHEATING" in RULES["oracle"]


def test_oracle_looks_at_the_targets_holdout_and_tells_the_other_part():
    a = record(draw=0, lines=[scored(4, 0.5, art=(0.9, 0.9, 0.2))])
    b = record(draw=1, lines=[scored(4, 0.5, art=(0.3, 0.4, 0.8))])
    choice = only([a, b], "oracle")
    assert choice.record is b
    assert choice.accuracy("domainbed") == 0.4
    assert choice.accuracy("whole") == 0.3


def test_the_rules_that_do_not_cheat_never_look_at_the_target():
    """Whatever the target's scores are, the choice is the same."""
    for rule in ("training", "last"):
        before = only(draws(), rule)
        for shift in (0.0, 1.0):
            others = draws()
            for made in others:
                for line in made.lines:
                    line["held_out"]["art"] = dict.fromkeys(line["held_out"]["art"], shift)
            after = only(others, rule)
            assert (after.record.draw, after.step) == (before.record.draw, before.step)


@pytest.mark.parametrize("rule", ["training", "last", "oracle"])
def test_a_tie_goes_to_the_first_draw(rule):
    records = [record(draw=draw, lines=[scored(4, 0.5, art=0.5)]) for draw in (2, 0, 1)]
    assert only(records, rule).record.draw == 0


def test_methods_targets_and_trials_are_chosen_apart():
    records = [
        record(label, target=target, trial=trial)
        for label in ("erm", "kd", "erm@ema")
        for target in ("art", "photo")
        for trial in (0, 1)
    ]
    chosen, missing = choose(records, "training")
    assert [c.record for c in chosen] == records
    assert not missing
    for subset in (records[3:], records[::2], records[:1], []):
        chosen, missing = choose(subset, "training")
        assert [c.record for c in chosen] == subset
        assert not missing


def crossed() -> list:
    """Target art; photo and sketch held out besides, in turn; two draws of three steps.

    Mean over the two at steps 0, 4 and 8; draw 0: 0.4, 0.5, 0.3; draw 1: 0.2, 0.6, 0.55.
    """
    photo = {0: (0.3, 0.7, 0.1), 1: (0.1, 0.5, 0.9)}
    sketch = {0: (0.5, 0.3, 0.5), 1: (0.3, 0.7, 0.2)}
    records = []
    for draw in (0, 1):
        lines = [scored(s, 0.9 - s / 10, art=(draw + s) / 10) for s in (0, 4, 8)]
        records.append(record(draw=draw, lines=lines))
        # The names of a pair are sorted: in the second the target is the one held out besides.
        for also, values in (("photo", photo[draw]), ("sketch", sketch[draw])):
            lines = [
                scored(s, 0.1, art=1 - s / 10, **{also: value})
                for s, value in zip((0, 4, 8), values, strict=True)
            ]
            records.append(record(draw=draw, lines=lines, also=(also,)))
    return records


def test_leave_one_out_by_hand():
    choice = only(crossed(), "leave-one-out")
    assert (choice.record.draw, choice.step) == (1, 4)
    assert choice.whole == pytest.approx(0.5)  # of the run that held out the target alone
    assert not choice.record.config.data.also_held_out
    assert only(crossed()[::-1], "leave-one-out").step == 4


def test_a_pair_serves_both_of_its_domains():
    pairs = [
        record(target=a, also=(b,), lines=[scored(4, 0.5, **{a: x, b: y})])
        for a, b, x, y in (("art", "photo", 0.1, 0.2), ("art", "sketch", 0.3, 0.4),
                           ("photo", "sketch", 0.5, 0.6))
    ]  # fmt: skip
    mains = [record(target=d, lines=[scored(4, 0.5, **{d: 0.9})]) for d in ("art", "sketch")]
    chosen, missing = choose([*pairs, *mains], "leave-one-out")
    assert [c.record.target for c in chosen] == ["art", "sketch"]
    assert not missing


def test_leave_one_out_says_what_is_missing():
    records = crossed()
    lacking = [r for r in records if not (r.draw == 1 and "sketch" in r.held_out)]
    chosen, (said,) = choose(lacking, "leave-one-out")
    assert not chosen
    assert said.startswith("erm, target art, trial 0: no run holds out sketch besides the target")
    assert "draw 1" in said
    assert "--cross-validate" in said
    # Another method, trial or target in the same folder neither helps nor suffers.
    other = record("kd", lines=[scored(4, 0.5, art=0.5)])
    chosen, missing = choose([*records, other], "leave-one-out")
    assert [c.record.label for c in chosen] == ["erm"]
    assert missing[0].startswith("kd, target art, trial 0: no run holds out photo, sketch")


def test_leave_one_out_takes_pairs_of_the_same_hyper_parameters():
    """Runs of other settings may lie in the same folder, and are draw 0 as well."""
    others = [
        replace(r, config=replace(r.config, hparams=replace(r.config.hparams, lr=0.5)))
        for r in crossed()
        if r.config.data.also_held_out
    ]
    for other in others:
        for line in other.lines:
            for scores in line["held_out"].values():
                scores["accuracy"] = 0.0
    for records in ([*crossed(), *others], [*others, *crossed()]):
        choice = only(records, "leave-one-out")
        assert (choice.record.draw, choice.step) == (1, 4)


def test_leave_one_out_compares_steps_in_common():
    records = crossed()
    for r in records:
        if r.config.data.also_held_out and r.draw == 1:
            r.lines[:] = [line for line in r.lines if line["step"] != 4]
    assert only(records, "leave-one-out").step == 8  # 0.55 is the best that is left
    for r in records:
        if r.config.data.also_held_out == ("photo",):
            r.lines[:] = [scored(99, 0.5, art=0.5, photo=0.5)]
    _, (said,) = choose(records, "leave-one-out")
    assert "at no step in common" in said


def test_leave_one_out_needs_two_sources():
    _, (said,) = choose([record(domains=("art", "photo"))], "leave-one-out")
    assert "single source photo: there is none to hold out. Use another rule" in said


@pytest.mark.parametrize("rule", ["training", "last", "leave-one-out"])
def test_the_teacher_has_no_steps_to_choose(rule):
    lines = [scored(0, 0.5, art=0.7)]
    probes = [record("linear-probe", lines, draw=draw) for draw in (0, 1)]
    probes[1].lines[0] = scored(0, 0.6, art=0.4)
    assert only(probes, rule).record.draw == 1
    assert only([record("zero-shot", lines)], rule).whole == 0.7


def test_a_run_that_did_not_score_its_target_knows_it_at_its_own_step_only():
    """As ``scmd train`` without --score-held-out: the summary measures what was deployed."""
    run = record(lines=[scored(0, 0.8), scored(4, 0.6)])
    choice = only([run], "training")
    assert (choice.step, choice.whole, choice.domainbed) == (0, 0.25, 0.75)
    for rule in ("last", "oracle", "leave-one-out"):
        _, (said,) = choose([run], rule)
        assert "--score-held-out" in said or "--cross-validate" in said
    same_step = record(lines=[scored(0, 0.6), scored(4, 0.8)])
    assert only([same_step], "last").whole == 0.25


def test_a_run_without_scores_is_missing_and_no_obstacle():
    chosen, (said,) = choose([record(), replace(record("kd"), lines=[])], "training")
    assert [c.record.label for c in chosen] == ["erm"]
    assert "no score in its log" in said


def test_a_run_without_target_has_no_place_in_a_table():
    run = record()
    without = replace(run, config=replace(run.config, data=replace(run.config.data, target=None)))
    assert choose([without], "training") == ([], [])
