"""Whatever a configuration file holds, it is settings that can be saved, or one line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from bounds import no_longer_than, settings_for
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import Edit, edits, spoil
from soaking import cases
from wrong_things import pictures

from scmd.config import RunConfig, load_config, save_config, to_toml
from scmd.errors import ScmdError, printable
from scmd.methods import METHODS
from scmd.protocol.draws import nested
from scmd.protocol.plan import ProtocolConfig, plan
from scmd.toml_tables import flatten

LONGEST = 10.0
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
HUGE = st.sampled_from([2**63, 10**30])
NUMBERS = st.one_of(st.integers(), st.integers(-2, 3), st.floats(), st.floats(-1, 2), HUGE)
SCALARS = st.one_of(NUMBERS, st.booleans(), TEXT, st.dates(), st.times(), st.datetimes())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(TEXT.filter(bool), inner, max_size=3)
    ),
    max_leaves=5,
)
KNOWN = sorted(
    {n for m in METHODS for n in flatten(asdict(RunConfig(m, hparams=METHODS[m].Config())))}
)
"""Dotted names of all settings of all methods."""
CHOICES = ("scmd", "erm", "union", "clean", "sma", "ema", "swad", "none", "cpu", "fp32", "digits")


def settings_of(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Some known settings, with values of any type, and sometimes one that nobody knows."""
    values = st.one_of(VALUES, st.sampled_from(CHOICES))
    known = st.dictionaries(st.sampled_from(names), values, max_size=4)
    return st.builds(lambda one, other: {**one, **other}, known, st.one_of(st.just({}), unknown()))


def unknown() -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(TEXT.filter(bool), VALUES, max_size=1)


def one_line(error: ScmdError) -> None:
    """As the command line prints it: not a line break of ours, and not empty."""
    assert str(error).strip()
    assert len(printable(str(error))) < 20_000


def settings_or_one_line(file: Path) -> None:
    """The promise of a run's configuration."""
    with no_longer_than(LONGEST):
        try:
            config = load_config(file)
        except ScmdError as error:
            one_line(error)
            return
        saved = file.with_name("saved.toml")
        save_config(config, saved)
        assert load_config(saved) == config


def test_any_settings(tmp_path):
    file = tmp_path / "settings.toml"

    @settings_for(cases(120, 1200))
    @given(settings_of(KNOWN), st.sampled_from([None, *METHODS]))
    @example({"training.steps": 10**30}, None)
    @example({"hparams.lr": float("nan")}, None)
    @example({"student.mean": [float("nan"), 0.0, 0.0]}, "erm")
    @example({"data.path": "a\nb"}, "erm")
    def try_one(given_ones: dict[str, Any], method: str | None) -> None:
        tables = nested(given_ones)
        file.write_text(tomli_w.dumps({"method": method, **tables} if method else tables))
        settings_or_one_line(file)

    try_one()


def test_spoiled_bytes(tmp_path):
    file = tmp_path / "settings.toml"
    whole = [to_toml(RunConfig(name, hparams=METHODS[name].Config())) for name in METHODS]

    @settings_for(cases(100, 1200))
    @given(st.sampled_from(whole), st.sampled_from(whole), edits())
    def try_one(text: str, donor: str, changes: list[Edit]) -> None:
        file.write_bytes(spoil(text.encode(), changes, donor.encode()))
        settings_or_one_line(file)

    try_one()


@pytest.mark.parametrize("text", [
    ".".join(["a"] * 3000) + " = 1",
    "a = " + "[" * 3000 + "]" * 3000,
    "a = " + "{a = " * 3000 + "1" + "}" * 3000,
    "[training]\nsteps = 0x" + "f" * 5000,
    "[training]\nsteps = " + "9" * 5000,
    "x" * 100_000,
    "",
], ids=["keys", "lists", "tables", "hexadecimal", "digits", "long", "empty"])  # fmt: skip
def test_extremes(text, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    settings_or_one_line(file)


METHODS_ASKED = "zero-shot,linear-probe,erm,scmd,scmd-no-cm"
RANGES = st.one_of(
    VALUES,
    st.lists(st.one_of(NUMBERS, st.booleans()), min_size=1, max_size=3),
    st.fixed_dictionaries({"low": NUMBERS, "high": NUMBERS}, optional={"log": st.booleans()}),
)
IN_SEARCH = [name.removeprefix("hparams.") for name in KNOWN if name.startswith("hparams.")]


def test_any_comparison(tmp_path):
    """A plan, drawn and all, or one line."""
    pictures(tmp_path / "images", ("art", "photo"), ("cat", "dog"), 1)
    file = tmp_path / "settings.toml"
    rows = st.sampled_from(["scmd", "erm", "kd", "linear-probe", "scmd-no-cm", "skmd"])

    @settings_for(cases(25, 500))
    @given(
        st.one_of(st.just({}), settings_of(KNOWN)),
        st.dictionaries(st.sampled_from(IN_SEARCH), RANGES, max_size=2),
        st.one_of(st.just({}), st.dictionaries(rows, st.one_of(VALUES, settings_of(IN_SEARCH)))),
        st.one_of(st.just({}), st.dictionaries(rows, RANGES, max_size=2)),
    )
    def try_one(
        general: dict[str, Any], search: dict[str, Any], own: dict[str, Any], ranges: dict[str, Any]
    ) -> None:
        tables = {**nested(general), "search": {**nested(search), **ranges}, "methods": own}
        file.write_text(tomli_w.dumps(tables))
        asked = ProtocolConfig(
            str(tmp_path / "images"), METHODS_ASKED, targets="art", trials=1, search=3, config=file
        )
        with no_longer_than(LONGEST):
            try:
                runs = plan(asked)
            except ScmdError as error:
                one_line(error)
            else:
                assert len({run.name for run in runs}) == len(runs) > 0

    try_one()
