from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scmd import processes
from scmd.config import build_config
from scmd.errors import ScmdError
from scmd.methods.scmd import SCMDConfig
from scmd.selection import SelectionConfig, even_share, hardest, number_kept, phase, select


def places(kept: torch.Tensor) -> list[int]:
    return kept.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("batch", "fraction", "kept"),
    [
        (96, 0.2, 19),
        (96, 0.25, 24),
        (96, 0.3, 28),
        (5, 0.2, 1),
        (9, 0.2, 1),
        (10, 0.2, 2),
        (4, 0.2, 1),  # int(0.8) is 0
        (1, 0.2, 1),
        (1, 1e-6, 1),
        (7, 0.999, 6),
        (7, 1.0, 7),
        (1, 1.0, 1),
    ],
)
def test_number_kept(batch: int, fraction: float, kept: int):
    assert number_kept(batch, fraction) == kept
    losses = torch.rand(batch, generator=torch.Generator().manual_seed(0))
    assert hardest(losses, fraction).sum() == kept


@given(st.integers(1, 300), st.floats(0, 1, exclude_min=True))
def test_number_kept_is_never_none_nor_more_than_all(batch: int, fraction: float):
    assert 1 <= number_kept(batch, fraction) <= batch


def test_hardest_keeps_the_largest_losses():
    assert places(hardest(torch.tensor([0.1, 3.0, 0.2, 5.0, 4.0]), 0.4)) == [3, 4]
    assert places(hardest(torch.tensor([-1.0, -3.0, -2.0]), 0.5)) == [0]
    assert places(hardest(torch.tensor([2.0, 1.0, 3.0]), 1.0)) == [0, 1, 2]


def test_of_equal_losses_the_earlier_is_kept():
    assert places(hardest(torch.ones(10), 0.3)) == [0, 1, 2]
    assert places(hardest(torch.tensor([1.0, 2.0, 1.0, 2.0, 2.0]), 0.4)) == [1, 3]
    # Enough ties that an unstable sort would mix them up.
    assert places(hardest(torch.zeros(5000), 0.01)) == list(range(50))


@given(st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=50, unique=True), st.randoms())
def test_what_is_kept_does_not_depend_on_the_order(values: list[int], random):
    losses = torch.tensor(values, dtype=torch.float32)
    order = list(range(len(values)))
    random.shuffle(order)
    assert torch.equal(hardest(losses, 0.3)[order], hardest(losses[order], 0.3))


@pytest.mark.parametrize("scope", ["batch", "domain"])
def test_selection_does_not_depend_on_the_order(scope: Literal["batch", "domain"]):
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(30, generator=generator)
    domains = torch.randint(0, 3, (30,), generator=generator)
    order = torch.randperm(30, generator=generator)
    config = SelectionConfig(scope=scope)
    kept = select(losses, domains, config)
    assert torch.equal(select(losses[order], domains[order], config), kept[order])


def test_scope_domain_compares_within_each_domain():
    # The first domain is easy throughout; its hardest samples are kept all the same.
    losses = torch.cat([torch.linspace(0, 1, 10), torch.linspace(9, 5, 10), torch.tensor([3.0])])
    domains = torch.tensor([7] * 10 + [2] * 10 + [4])
    config = SelectionConfig(fraction=0.2, scope="domain")
    assert places(select(losses, domains, config)) == [8, 9, 10, 11, 20]
    config = SelectionConfig(fraction=0.2, scope="batch")
    assert places(select(losses, domains, config)) == [10, 11, 12, 13]


@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.floats(0.05, 1), st.integers(0, 99)
)
@pytest.mark.parametrize("scope", ["batch", "domain"])
def test_some_process_trains_on_no_more_than_an_even_share(
    scope: Literal["batch", "domain"],
    own_per_domain: int,
    domains: int,
    shared_by: int,
    fraction: float,
    seed: int,
):
    per_domain = own_per_domain * shared_by
    config = SelectionConfig(fraction=fraction, scope=scope)
    losses = torch.rand(per_domain * domains, generator=torch.Generator().manual_seed(seed))
    kept = select(losses, torch.arange(domains).repeat_interleave(per_domain), config)
    fewest = min(int(kept[process::shared_by].sum()) for process in range(shared_by))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "number", lambda: shared_by)
        share = even_share(per_domain, domains, config)
    assert max(1, fewest) <= share
    if shared_by == 1:
        assert fewest == share


def test_rule_all_keeps_all():
    config = SelectionConfig(rule="all", fraction=0.1)
    assert select(torch.rand(8), torch.zeros(8), config).all()


# Random selection.


def drawn(losses: torch.Tensor, seed: int, scope: Literal["batch", "domain"] = "batch"):
    config = SelectionConfig(rule="random", fraction=0.25, scope=scope)
    domains = torch.arange(len(losses)) % 4
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return select(losses, domains, config)


def test_random_depends_on_the_global_generator_alone():
    losses = torch.arange(40.0)
    kept = drawn(losses, 3)
    assert kept.sum() == 10
    assert torch.equal(drawn(losses, 3), kept)
    assert torch.equal(drawn(-losses, 3), kept)
    assert torch.equal(drawn(torch.full((40,), torch.nan), 3), kept)
    assert not torch.equal(drawn(losses, 4), kept)


def test_random_keeps_as_many_of_every_domain_where_it_is_asked_to():
    kept = drawn(torch.zeros(40), 0, "domain")
    assert [int(kept[domain::4].sum()) for domain in range(4)] == [2, 2, 2, 2]


def test_random_keeps_every_sample_equally_often():
    counts = sum(drawn(torch.arange(40.0), seed).long() for seed in range(400))
    assert isinstance(counts, torch.Tensor)
    # Binomial(400, 1/4): mean 100, standard deviation 8.7.
    assert counts.min() > 100 - 5 * 8.7
    assert counts.max() < 100 + 5 * 8.7


@pytest.mark.parametrize("rule", ["hardest", "kd-loss", "all"])
def test_other_rules_draw_nothing(rule: Literal["hardest", "kd-loss", "all"]):
    before = torch.random.get_rng_state()
    config = SelectionConfig(rule=rule)
    select(torch.rand(8, generator=torch.Generator()), torch.zeros(8), config)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("scope", ["batch", "domain"])
def test_kd_loss_ranks_what_it_is_given_as_hardest_does(scope: Literal["batch", "domain"]):
    losses = torch.rand(30, generator=torch.Generator().manual_seed(0))
    domains = torch.arange(30) % 3
    kept = [
        select(losses, domains, SelectionConfig(rule=rule, scope=scope))
        for rule in ("hardest", "kd-loss")
    ]
    assert torch.equal(*kept)
    assert selecting_steps(10, SelectionConfig(rule="kd-loss", warmup=0.2)) == list(range(2, 8))


# Phases.


def selecting_steps(steps: int, config: SelectionConfig) -> list[int]:
    return [step for step in range(steps) if phase(step / steps, config) == "select"]


@pytest.mark.parametrize(
    ("steps", "warmup", "last", "first_and_stop"),
    [
        (5000, 0.0, 0.25, (0, 3750)),
        (15000, 0.0, 0.25, (0, 11250)),
        (100, 0.0, 0.2, (0, 80)),
        (100, 0.4, 0.25, (40, 75)),
        (10, 0.0, 0.9, (0, 1)),
        (10, 0.0, 1 - 0.1, (0, 1)),
        (10, 0.0, 1 - 0.9, (0, 9)),  # 1 - 0.9 is a little less than 0.1
        (10, 1 - 0.9, 0.0, (1, 10)),
        (10, 1 - 0.7, 1 - 0.7, (3, 7)),
        (30, 0.1, 0.1, (3, 27)),
        (7, 0.0, 0.0, (0, 7)),
        (7, 0.0, 1.0, (0, 0)),
        (7, 1.0, 0.0, (0, 0)),
        (10, 0.3, 0.7, (0, 0)),
        (1, 0.0, 0.25, (0, 1)),
        (3, 0.0, 0.25, (0, 3)),  # 2.25 steps: step 2 begins before the last quarter does
    ],
)
def test_phases_switch_at_their_steps(
    steps: int, warmup: float, last: float, first_and_stop: tuple[int, int]
):
    config = SelectionConfig(warmup=warmup, last_fraction=last)
    assert selecting_steps(steps, config) == list(range(*first_and_stop))


@given(st.integers(1, 2000), st.integers(0, 100), st.integers(0, 100))
def test_phases_are_those_of_exact_arithmetic(steps: int, percent: int, more: int):
    warmup, last = Fraction(percent, 100), Fraction(min(more, 100 - percent), 100)
    config = SelectionConfig(warmup=float(warmup), last_fraction=float(last))
    exact = [step for step in range(steps) if warmup <= Fraction(step, steps) < 1 - last]
    assert selecting_steps(steps, config) == exact


@pytest.mark.parametrize(("preset", "steps"), [("paper", 5001), ("paper-domainnet", 15001)])
def test_the_paper_preset_selects_in_steps_0_to_3750(preset: str, steps: int):
    config = build_config(preset)
    assert isinstance(config.hparams, SCMDConfig)
    assert config.training.steps == steps
    assert selecting_steps(steps, config.hparams.selection) == list(range(3751))


def test_rule_all_never_selects():
    assert selecting_steps(20, SelectionConfig(rule="all")) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.0}, "selection.fraction = 0.0"),
        ({"fraction": 1.2}, "selection.fraction = 1.2"),
        ({"fraction": float("nan")}, "selection.fraction = nan"),
        ({"warmup": -0.1}, "selection.warmup = -0.1"),
        ({"last_fraction": 1.01}, "selection.last_fraction = 1.01"),
        ({"warmup": 0.6, "last_fraction": 0.5}, "more than all steps"),
        ({"rule": "hard"}, "selection.rule = 'hard': choose from hardest, random, kd-loss, all"),
        ({"scope": "domains"}, "selection.scope = 'domains': choose from batch, domain"),
        ({"precision": "fp16"}, "selection.precision = 'fp16': choose from same, fp32"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any], message: str):
    with pytest.raises(ScmdError, match=message):
        SelectionConfig(**settings)


# Selecting the worst ρ of a batch estimates CVaR: Rockafellar and Uryasev, 2000.

CVAR = [(20, 0.2), (96, 0.25), (10, 0.3), (40, 0.05), (8, 1.0)]


def batch_and_worst(batch: int, fraction: float) -> tuple[np.ndarray, float]:
    losses = np.random.default_rng(batch).gamma(1.5, size=batch)
    kept = hardest(torch.from_numpy(losses), fraction).numpy()
    return losses, float(losses[kept].mean())


@pytest.mark.parametrize(("batch", "fraction"), CVAR)
def test_mean_of_the_kept_losses_is_the_least_upper_bound_of_cvar(batch: int, fraction: float):
    losses, worst = batch_and_worst(batch, fraction)

    def bound(eta: float) -> float:
        return eta + np.maximum(losses - eta, 0).mean() / fraction

    # Convex and piecewise linear in η with its kinks at the losses, so one of them is a minimiser.
    assert min(bound(eta) for eta in losses) == pytest.approx(worst, rel=1e-12)
    grid = np.linspace(losses.min() - 1, losses.max() + 1, 2001)
    assert min(bound(eta) for eta in grid) >= worst - 1e-12


@pytest.mark.parametrize(("batch", "fraction"), CVAR)
def test_mean_of_the_kept_losses_is_the_worst_case_over_reweightings(batch: int, fraction: float):
    losses, worst = batch_and_worst(batch, fraction)
    ceiling = 1 / (fraction * batch)
    # A linear programme over 0 <= w <= ceiling, sum w = 1: its vertices fill the samples one by
    # one, and the best vertex takes the largest losses first.
    weights = np.zeros(batch)
    for index in np.argsort(-losses):
        weights[index] = min(ceiling, 1 - weights.sum())
    assert weights @ losses == pytest.approx(worst, rel=1e-12)
    # No other reweighting is worse: any feasible one, vertices and mixtures, stays below.
    generator = np.random.default_rng(0)
    for _ in range(300):
        other = np.zeros(batch)
        for index in generator.permutation(batch):
            other[index] = min(ceiling, 1 - other.sum())
        mixed = generator.uniform() * (other - weights) + weights
        assert other @ losses <= worst + 1e-12
        assert mixed @ losses <= worst + 1e-12
