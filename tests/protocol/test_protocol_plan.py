"""Which runs a comparison is made of, and what they are called."""

from __future__ import annotations

import copy
import hashlib
import itertools
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made import DOMAINS, tiny

from scmd.config import PRESETS
from scmd.errors import ScmdError
from scmd.methods import METHODS
from scmd.methods.ablations import ABLATIONS
from scmd.methods.scmd import SCMDConfig
from scmd.methods.search import Choice, LogUniform, Uniform
from scmd.protocol.draws import draw_values, nested, parse_range, with_values
from scmd.protocol.plan import REFERENCES, PlannedRun, ProtocolConfig, labels, parse_setting, plan


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(DOMAINS, count=1)


def planned(images: Path | str, **changes: Any) -> list[PlannedRun]:
    return plan(ProtocolConfig(data=str(images), **changes))


def one(images: Path, **changes: Any) -> PlannedRun:
    """The last draw of a single row."""
    *_, last = planned(images, targets="art", trials=1, **changes)
    return last


def hparams(images: Path, row: str, **changes: Any) -> dict[str, Any]:
    return asdict(one(images, methods=row, **changes).config.hparams)


def test_every_method_target_draw_and_trial_once(images):
    runs = planned(images, methods="zero-shot,linear-probe,erm,scmd-no-cm", trials=2, search=3)
    found = sorted((r.label, r.target, r.trial, r.draw) for r in runs)
    searched = itertools.product(("linear-probe", "erm", "scmd-no-cm"), DOMAINS, (0, 1), (0, 1, 2))
    once = itertools.product(["zero-shot"], DOMAINS, (0, 1), [0])  # it has nothing to search
    assert found == sorted([*searched, *once])
    assert len({r.name for r in runs}) == len(runs)
    assert all(r.config.training.score_held_out for r in runs)


def test_cross_validation_adds_every_pair_once_and_only_of_students(images):
    runs = planned(images, methods="zero-shot,erm,kd", trials=1, cross_validate=True)
    pairs = [
        (r.label, r.target, *r.config.data.also_held_out)
        for r in runs
        if r.config.data.also_held_out
    ]
    expected = itertools.product(("erm", "kd"), itertools.combinations(DOMAINS, 2))
    assert sorted(pairs) == sorted((label, *pair) for label, pair in expected)
    some = planned(images, methods="erm", targets="photo", trials=1, cross_validate=True)
    assert {r.name for r in some} < {r.name for r in runs}
    assert len(some) == 3


def test_two_domains_have_no_pairs(image_folder):
    images = image_folder(("art", "photo"), count=1, name="two")
    assert len(planned(images, methods="erm", trials=1, cross_validate=True)) == 2


def test_neighbours_share_batches(images):
    runs = planned(images, methods="erm,kd,scmd", trials=2, search=2, cross_validate=True)
    groups = [(r.trial, r.target, r.config.data.also_held_out) for r in runs]
    assert len(list(itertools.groupby(groups))) == len(set(groups))


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not is_dataclass(value):
        return [path]
    return [
        leaf
        for part in fields(value)
        for leaf in leaves(getattr(value, part.name), (*path, part.name))
    ]


def changed(run: PlannedRun, path: tuple[str, ...]) -> PlannedRun:
    """A copy with another value of one setting, sensible or not."""
    run = copy.deepcopy(run)
    part: Any = run.config
    for name in path[:-1]:
        part = getattr(part, name)
    own = getattr(part, path[-1])
    others: dict[type, Any] = {bool: own is False, tuple: ("x",), str: "x", type(None): "x"}
    other = others[type(own)] if type(own) in others else own + 1
    object.__setattr__(part, path[-1], other)
    return run


@pytest.mark.parametrize("row", ["scmd", "linear-probe"])
def test_names_differ_exactly_where_configurations_differ_in_effect(images, row):
    run = one(images, methods=row)
    without_effect = {("training", name) for name in ("workers", "device", "tracker")}
    without_effect.add(("data", "decode_once"))
    paths = leaves(run.config)
    assert without_effect < set(paths)
    names = {path: changed(run, path).name for path in paths}
    assert {path for path, name in names.items() if name == run.name} == without_effect
    assert len(set(names.values())) == len(paths) - len(without_effect) + 1
    assert replace(run, draw=1).name != run.name


def test_a_name_is_one_folder_that_says_what_it_is(images):
    run = one(images, methods="scmd-no-cm@ema", search=2)
    assert run.name.startswith("art-scmd-no-cm@ema-draw1-trial0-")
    odd = replace(run, config=replace(run.config, data=replace(run.config.data, target="a/b")))
    assert "/" not in odd.name


def test_preset_then_file_then_flags(images, tmp_path):
    file = tmp_path / "comparison.toml"
    file.write_text(
        "[training]\nsteps = 70\nevaluate_every = 7\n"
        "[hparams]\nlambda1 = 0.1\n"
        "[methods.kd]\nlambda1 = 0.2\n"
        "[methods.scmd.selection]\nwarmup = 0.9\nlast_fraction = 0.1\n"
    )
    common: dict[str, Any] = {"preset": "digits", "config": file, "set": ("training.steps=30",)}
    run = one(images, methods="erm", **common).config
    assert run.training.steps == 30
    assert run.training.evaluate_every == 7
    assert run.data.image_size == PRESETS["digits"]["data"]["image_size"]
    assert hparams(images, "kd", **common)["lambda1"] == 0.2
    scmd = hparams(images, "scmd", **common)
    assert scmd["lambda1"] == 0.1
    assert scmd["selection"]["warmup"] == 0.9  # valid only together with last_fraction
    assert scmd["selection"]["fraction"] == 0.5
    set_after = (*common["set"], "methods.kd.lambda1=1")
    assert hparams(images, "kd", **common | {"set": set_after})["lambda1"] == 1.0


def test_data_target_seed_and_scores_are_the_plans(images):
    given = ("data.path=elsewhere", "data.target=sketch", "training.seed=7")
    run = one(images, methods="erm", set=given).config
    assert (run.data.path, run.data.target) == (str(images), "art")
    assert run.training.seed == 0


@pytest.mark.parametrize("row", ABLATIONS)
def test_an_ablation_is_its_method_but_for_its_changes(images, row):
    """Whatever is set or searched of the method, what makes the ablation stays."""
    method, changes = ABLATIONS[row]
    given = tuple(
        f"methods.{method}.{setting}"
        for setting in ("lambda1=0.6", "lambda2=0.7", "selection.rule=hardest", "focal_gamma=1")
    )
    of_method = one(images, methods=method, set=given).config.hparams
    assert one(images, methods=row, set=given).config.hparams == with_values(of_method, changes)
    given += ("search.lambda1=[0.1]", "search.scmd.lambda2=[0.2]", "search.temperature=[4.5]")
    run = one(images, methods=row, set=given, search=2)
    of_method = one(images, methods=method, set=given, search=2)
    assert run.drawn == {k: v for k, v in of_method.drawn.items() if k not in changes}
    assert run.config.hparams == with_values(of_method.config.hparams, changes)


def pick(values: Any, name: str) -> Any:
    for key in name.split("."):
        values = values[key]
    return values


def test_an_ablations_own_table_comes_last(images):
    given = ("methods.scmd.lambda1=0.3", "methods.scmd-no-cm.lambda1=0.4")
    assert hparams(images, "scmd-no-cm", set=given)["lambda1"] == 0.4
    assert hparams(images, "scmd", set=given)["lambda1"] == 0.3


def test_an_average_after_at(images):
    plain, swad = planned(images, methods="erm,erm@swad", targets="art", trials=1)
    assert swad.label == "erm@swad"
    assert swad.config.average == replace(plain.config.average, average="swad")
    assert replace(swad.config, average=plain.config.average) == plain.config


def test_search_ranges_for_all_methods_and_for_one(images):
    given = ("search.lambda1=[0.25]", "search.kd.lambda1=[0.75]", "search.selection.fraction=[0.4]")
    common: dict[str, Any] = {"set": given, "search": 2}
    assert hparams(images, "scmd", **common)["lambda1"] == 0.25
    assert hparams(images, "scmd", **common)["selection"]["fraction"] == 0.4
    assert hparams(images, "kd", **common)["lambda1"] == 0.75
    assert "lambda1" not in one(images, methods="erm", **common).drawn
    # A range for one method may be of a setting that is not searched else.
    given = ("search.kd.decay_all=[true]", "search.kd.lr={low=0.1, high=0.2, log=true}")
    run = one(images, methods="kd", set=given, search=2)
    assert run.config.hparams.decay_all
    assert 0.1 <= run.config.hparams.lr <= 0.2
    assert run.drawn["lr"] == run.config.hparams.lr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "no data given"),
        ({"methods": "emr"}, "there is no method 'emr'. Did you mean 'erm'"),
        ({"methods": "qqq"}, "Choose from zero-shot, linear-probe, fine-tuned, erm"),
        ({"methods": " , "}, "empty list of names"),
        ({"methods": "erm@swda"}, "'erm@swda': after @ stands an average"),
        ({"methods": "erm@"}, "after @ stands an average"),
        ({"methods": "zero-shot@ema"}, "after @ stands an average of a student"),
        ({"targets": "skech"}, "has no domain 'skech'.*Did you mean 'sketch'"),
        ({"trials": 0}, "trials = 0: give a whole number from 1"),
        ({"search": 0}, "search = 0"),
        ({"preset": "none"}, "there is no preset 'none'"),
        ({"set": ("steps=3",)}, "--set 'steps=3' is not of the form section.name=value"),
        ({"set": ("training.steps",)}, "not of the form"),
        ({"set": ("training.stesp=3",)}, "no setting 'training.stesp'. Did you mean 'training.st"),
        ({"set": ("training.steps=many",)}, "training.steps = 'many'"),
        ({"set": ("training.steps=0",)}, "steps = 0"),
        ({"set": ("hparams.lamda1=1",)}, "no method has.*'lamda1'. Did you mean 'lambda1'"),
        ({"set": ("methods.smcd.lr=1",)}, "no method 'smcd'. Did you mean 'scmd'"),
        ({"set": ("methods.scmd=1",)}, "methods.scmd = 1: give a table"),
        ({"set": ("methods.kd.lamda1=1",)}, "methods.kd: .*'hparams.lamda1'. Did you mean"),
        ({"set": ("methods.kd.lambda1=-1",)}, "methods.kd: lambda1 = -1.0: give a number from 0"),
        ({"set": ('methods.scmd.selection.rule="hard"',)}, "methods.scmd: .*selection.rule"),
        ({"set": ("search.lamda1=[1]",)}, "search.lamda1: no method has.*Did you mean 'lambda1'"),
        ({"set": ("search.smcd.lr=[1]",)}, "search.smcd: there is no method.*Did you mean 'scmd'"),
        ({"set": ("search.kd.lambda2=[1]",)}, "kd has no hyper-parameter 'lambda2'"),
        ({"set": ("search.lr=1",)}, "search.lr = 1: give a list of values, or {low"),
        ({"set": ("search.lr={low=1, hgih=2}",)}, "search.lr = .*give a list"),
        ({"set": ("search.lr={low=2, high=1}",)}, "search.lr"),
        ({"set": ("search.lr={low=0, high=1, log=true}",)}, "search.lr"),
        ({"set": ("search.lr=[]",)}, "search.lr"),
        ({"set": ("search.kd.lambda1=['x']",), "search": 2}, "lambda1 = 'x'.*like its default"),
    ],
)
def test_what_is_refused(images, changes, message):
    with pytest.raises(ScmdError, match=message):
        plan(ProtocolConfig(**{"data": str(images), "methods": "erm,kd,scmd", **changes}))


def test_a_files_mistakes_begin_with_its_name(images, tmp_path):
    file = tmp_path / "mine.toml"
    for text in ("[training]\nstesp = 1", "[methods.kd]\nlamda1 = 1", "[search]\nlamda1 = [1]"):
        file.write_text(text)
        with pytest.raises(ScmdError, match=r"^\S*mine.toml: .*Did you mean"):
            planned(images, methods="kd", config=file)


def test_a_single_domain_cannot_be_held_out(image_folder):
    with pytest.raises(ScmdError, match="single domain 'art': held out, it leaves nothing"):
        planned(image_folder(("art",), count=1), methods="erm")


def test_labels_keep_their_order_and_come_once():
    assert labels("scmd, erm ,scmd") == ["scmd", "erm"]
    assert labels("all") == [*REFERENCES, *METHODS, *ABLATIONS]


def test_settings_are_toml_or_text():
    assert parse_setting("a.b=1e-3") == {"a": {"b": 1e-3}}
    assert parse_setting("a.b.c = [1, 2]") == {"a": {"b": {"c": [1, 2]}}}
    assert parse_setting("student.name=resnet50") == {"student": {"name": "resnet50"}}
    assert parse_setting("teacher.name=a=b") == {"teacher": {"name": "a=b"}}


def domainbed(draw: int, trial: int, name: str) -> np.random.RandomState:
    """Its rule, written down again: train's seed_hash(hparams_seed, trial_seed), and
    hparams_registry's RandomState(misc.seed_hash(that, name))."""

    def seed_hash(*keys: object) -> int:
        return int(hashlib.md5(str(keys).encode()).hexdigest(), 16) % 2**31

    return np.random.RandomState(seed_hash(seed_hash(draw, trial), name))


def test_draws_are_domainbeds():
    space = {"lr": LogUniform(1e-5, 1e-2), "width": Choice((1, 2, 3)), "selection.k": Uniform(2, 5)}
    assert draw_values(space, 0, 0) == {}
    for draw in range(1, 30):
        trial = draw % 3
        values = draw_values(space, draw, trial)
        log_lr = domainbed(draw, trial, "lr").uniform(-5, -2)
        assert values["lr"] == pytest.approx(10**log_lr)
        assert values["width"] == domainbed(draw, trial, "width").choice([1, 2, 3])
        assert values["selection.k"] == domainbed(draw, trial, "selection.k").uniform(2, 5)
        for name in space:  # whatever else is searched
            assert draw_values({name: space[name]}, draw, trial) == {name: values[name]}


def test_every_trial_has_a_search_of_its_own(images):
    runs = planned(images, methods="erm,kd", targets="art", trials=2, search=2)
    drawn = {(r.label, r.trial): r.drawn for r in runs if r.draw == 1}
    assert drawn["erm", 0].items() < drawn["kd", 0].items()
    assert drawn["erm", 1].items() < drawn["kd", 1].items()
    assert drawn["erm", 0] != drawn["erm", 1]


def test_a_hyper_parameter_for_all_goes_to_the_methods_that_have_it(images):
    rows = "zero-shot,erm,groupdro,scmd,scmd-random"
    runs = planned(images, methods=rows, targets="art", trials=1, set=("hparams.eta=0.02",))
    eta = {run.label: getattr(run.config.hparams, "eta", None) for run in runs}
    assert eta == dict.fromkeys(rows.split(",")) | {"groupdro": 0.02}


def test_a_last_slash_makes_no_other_runs(images):
    one, other = (planned(f"{images}{end}", methods="erm", trials=1) for end in ("", "/"))
    assert [run.name for run in one] == [run.name for run in other]


def test_draw_zero_is_the_defaults(images):
    for run in planned(images, methods="all", targets="art", trials=1, search=2):
        if run.draw == 0 and run.label in METHODS:
            assert run.config.hparams == METHODS[run.label].Config()
        assert (run.drawn == {}) == (run.draw == 0)


def test_a_method_and_its_ablations_draw_the_same_values(images):
    rows = ("scmd", "scmd@ema", "scmd-random", "scmd-no-cm")
    runs = planned(images, methods=",".join(rows), targets="art", trials=1, search=3)
    for draw in (1, 2):
        drawn = {r.label: r.drawn for r in runs if r.draw == draw}
        assert drawn["scmd"] == drawn["scmd@ema"] == drawn["scmd-random"]
        assert drawn["scmd-no-cm"].items() < drawn["scmd"].items()


@pytest.mark.parametrize("name", METHODS)
def test_every_draw_of_every_method_is_a_valid_configuration(name):
    for draw in range(50):
        values = draw_values(METHODS[name].search_space, draw, 0)
        config = with_values(METHODS[name].Config(), values)
        for key, value in values.items():
            assert pick(asdict(config), key) == value


def test_ranges():
    rng = np.random.RandomState(0)
    uniform = parse_range("a", {"low": 2, "high": 6})
    log = parse_range("b", {"low": 0.01, "high": 100, "log": True})
    drawn = np.array([[r.draw(rng) for r in (uniform, log)] for _ in range(2000)])
    assert (drawn.min(0) >= (2, 0.01)).all()
    assert (drawn.max(0) < (6, 100)).all()
    # The middle: of the numbers, and of their logarithms.
    np.testing.assert_allclose(np.median(drawn, axis=0), (4, 1), rtol=0.3)
    assert {parse_range("c", ["x", 1]).draw(rng) for _ in range(50)} == {"x", 1}


def test_settings_are_changed_together_and_leave_the_original_alone():
    before = SCMDConfig()
    after = with_values(before, {"selection.last_fraction": 0.0, "selection.warmup": 1})
    assert isinstance(after, SCMDConfig)
    assert (after.selection.warmup, after.selection.last_fraction) == (1.0, 0.0)
    assert before == SCMDConfig()
    with pytest.raises(ScmdError, match=r"'selection.fractoin'.*Did you mean 'selection.fraction'"):
        with_values(before, {"selection.fractoin": 1})
    with pytest.raises(ScmdError, match=r"lambda1 = {'x': 1}: give a value like its default, 0.5"):
        with_values(before, {"lambda1.x": 1})
    with pytest.raises(ScmdError, match="lambda1 = True"):
        with_values(before, {"lambda1": True})
    assert nested({"a.b": 1, "a": {"c.d": 2}, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_tiny_is_as_small_as_it_says(images, tmp_path):
    run = plan(tiny(images, tmp_path, methods="kd", targets="art", trials=1))[0].config
    assert (run.training.steps, run.student.name) == (8, "test_efficientnet")
