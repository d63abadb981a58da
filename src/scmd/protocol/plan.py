"""Which runs a comparison is made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from scmd.averaging import AverageName
from scmd.config import RunConfig, config_from, known_to
from scmd.data.folder import load_domains, resolve_domain
from scmd.errors import ScmdError
from scmd.limits import nearest, require_whole
from scmd.methods import METHODS
from scmd.methods.ablations import ABLATIONS
from scmd.methods.search import SearchSpace
from scmd.protocol.draws import draw_values, with_values
from scmd.protocol.settings import FINE_TUNED, PROBE, check_names, own_values, search_space
from scmd.toml_tables import merge, plain, read_toml

REFERENCES = ("zero-shot", PROBE, FINE_TUNED)
"""The teacher itself, for comparison: as it is, with a linear classifier on its embeddings, and
fitted on the sources."""
SOUP = "+soup"
"""How the label of a method's mean of weights ends."""

MOST = 1000
"""Trials, and draws."""


@dataclass(frozen=True)
class ProtocolConfig:
    """A comparison on one data set."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="data", metavar="DATA")] = ""
    """A folder domain/class/image, or a CSV manifest."""
    methods: str = "zero-shot,erm,kd,scmd"
    """Names with commas, or all; a name may be followed by @ and an average, as in erm@swad."""
    targets: str = "all"
    """Domains with commas, each held out in turn, or all."""
    trials: int = 3
    """Trial seeds 0, 1, ...: split, initial weights and order."""
    search: int = 1
    """Draws of hyper-parameters for every method and trial; draw 0 is the defaults."""
    cross_validate: bool = False
    """Run also with every pair of domains held out, which leave-one-source-out selection needs."""
    preset: str = "default"
    """As for train; digits is for the embedded data set."""
    config: Path | None = None
    """A TOML file: as for train, with [methods.NAME] for one method's settings and [search] or
    [search.NAME] for ranges."""
    set: tuple[str, ...] = ()
    """Settings over the file's, e.g. training.steps=300 student.name=mobilenetv2_100."""

    def __post_init__(self) -> None:
        for name in ("trials", "search"):
            require_whole(name, getattr(self, name), 1, MOST)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison."""

    label: str
    """What its row is called: a method, an ablation or a reference, with an average or without."""
    config: RunConfig
    draw: int
    drawn: Mapping[str, Any] = field(default_factory=dict)
    """What the draw changed."""

    @property
    def reference(self) -> bool:
        """Whether it measures the teacher, and trains no student."""
        return self.label in REFERENCES

    @property
    def target(self) -> str:
        """The held-out domain."""
        return self.config.data.target or ""

    @property
    def trial(self) -> int:
        """The trial seed."""
        return self.config.training.seed

    @property
    def name(self) -> str:
        """Of its folder: readable, and ending in a hash of the complete configuration."""
        held_out = "+".join((self.target, *self.config.data.also_held_out))
        what = plain(dataclasses.asdict(self.config))
        del what["data"]["decode_once"]
        for without_effect in ("workers", "device", "tracker"):
            del what["training"][without_effect]
        if self.reference:
            what = {"reference": self.label, "drawn": dict(self.drawn), **what}
        text = json.dumps(what, sort_keys=True).encode()
        digest = hashlib.blake2b(text, digest_size=6).hexdigest()
        parts = (held_out, self.label, f"draw{self.draw}", f"trial{self.trial}", digest)
        return "-".join(parts).replace("/", "_")


def plan(config: ProtocolConfig) -> list[PlannedRun]:
    """All runs, in an order in which neighbours share batches.

    Raises:
        ScmdError: Bad data or settings, an unknown method, average or domain.
    """
    if not config.data:
        raise ScmdError("no data given. Name a folder domain/class/image, or a CSV manifest")
    asked = labels(config.methods)
    settings = read_toml(config.config) if config.config else {}
    for text in config.set:
        settings = merge(settings, parse_setting(text))
    where = f"{config.config}: " if config.config else ""
    check_names(settings, where)
    rows = [(label, *_resolve(label, config.preset, settings, where)) for label in asked]
    data = load_domains(config.data, rows[0][1].data.classes, one_is_enough=True)
    if len(data.domains) < 2:
        raise ScmdError(
            f"{data.source} has the single domain {''.join(data.domains)!r}: held out, it leaves "
            "nothing to train on. Add domains"
        )
    targets = (
        list(data.domains)
        if config.targets == "all"
        else [resolve_domain(data, name) for name in _names(config.targets)]
    )
    held_out: list[tuple[str, ...]] = [(target,) for target in targets]
    if config.cross_validate:
        held_out += [pair for t in targets for pair in _pairs(t, data.domains)]
    return list({run.name: run for run in _runs(config, rows, held_out)}.values())


def parse_setting(text: str) -> dict[str, Any]:
    """``training.steps=300`` to nested tables; a value that is no TOML is a text.

    Raises:
        ScmdError: It is not of the form section.name=value.
    """
    path, equals, value = text.partition("=")
    names = path.strip().split(".")
    if not equals or len(names) < 2 or not all(names):
        raise ScmdError(f"--set {text!r} is not of the form section.name=value")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    settings: dict[str, Any] = {names[-1]: parsed}
    for name in reversed(names[:-1]):
        settings = {name: settings}
    return settings


def labels(methods: str) -> list[str]:
    """The rows that are asked for. Raises a ScmdError where a name or an average is unknown."""
    known = [*REFERENCES, *METHODS, *ABLATIONS]
    if methods == "all":
        return known
    found = _names(methods)
    for label in found:
        name, at, average = label.partition("@")
        if name not in known:
            raise ScmdError(f"there is no method {name!r}. {nearest(name, known)}")
        if at and (name in REFERENCES or average not in get_args(AverageName)):
            raise ScmdError(
                f"{label!r}: after @ stands an average of a student's weights: "
                f"{', '.join(get_args(AverageName))}"
            )
    return found


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ScmdError("an empty list of names. Give some, with commas between them, or all")
    return list(dict.fromkeys(names))


def _pairs(target: str, domains: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Pairs with the target; sorted, since a pair serves both of its domains."""
    if len(domains) > 2:
        yield from (tuple(sorted((target, other))) for other in domains if other != target)


def _resolve(
    label: str, preset: str, settings: Mapping[str, Any], where: str
) -> tuple[RunConfig, SearchSpace]:
    """A row's configuration at draw 0, and its search space."""
    name, _, average = label.partition("@")
    method, _ = ABLATIONS.get(name, (name, {}))
    general = {key: value for key, value in settings.items() if key not in ("methods", "search")}
    space = search_space(settings, name)
    if "method" not in settings and "hparams" in settings:
        # They are for all methods: each takes those that it has.
        config_class = METHODS.get(method, METHODS["erm"]).Config
        general = {**general, "hparams": known_to(settings["hparams"], config_class)}
    if name in REFERENCES:
        return config_from(general, preset, "erm", where), space
    run = config_from(general, preset, method, where)
    if values := own_values(settings, name):
        hparams = merge(dataclasses.asdict(run.hparams), values)
        general = {**general, "method": method, "hparams": hparams}
        run = config_from(general, preset, method, f"{where}methods.{name}: ")
    if average:
        run = dataclasses.replace(run, average=dataclasses.replace(run.average, average=average))
    return run, space


def _runs(
    config: ProtocolConfig,
    rows: list[tuple[str, RunConfig, SearchSpace]],
    held_out: list[tuple[str, ...]],
) -> Iterator[PlannedRun]:
    path = str(Path(config.data))  # as typed, but for a last slash and the like
    for trial in range(config.trials):
        for target, *others in held_out:
            for label, base, space in rows:
                if others and label in REFERENCES:
                    continue
                run = dataclasses.replace(
                    base,
                    data=dataclasses.replace(
                        base.data, path=path, target=target, also_held_out=tuple(others)
                    ),
                    training=dataclasses.replace(base.training, seed=trial, score_held_out=True),
                )
                for draw in range(config.search if space else 1):
                    drawn = draw_values(space, draw, trial)
                    if label in REFERENCES:
                        yield PlannedRun(label, run, draw, drawn)
                        continue
                    hparams = with_values(run.hparams, drawn)
                    yield PlannedRun(label, dataclasses.replace(run, hparams=hparams), draw, drawn)
