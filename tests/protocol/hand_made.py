"""Comparisons that are small, and records of runs that nobody ran."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scmd.averaging import AverageConfig, AverageName
from scmd.config import DataConfig, RunConfig, TrainingConfig, save_config
from scmd.files import read_json, write_json
from scmd.methods import METHODS
from scmd.methods.ablations import ABLATIONS
from scmd.protocol.plan import REFERENCES, ProtocolConfig
from scmd.protocol.records import Record

DOMAINS = ("art", "photo", "sketch")
STEP = 8


def tiny(images: Path, teacher: Path | str, **changes: Any) -> ProtocolConfig:
    """A comparison whose runs take a second each; more ``set`` comes after its own."""
    more = tuple(changes.pop("set", ()))
    settings = (
        "student.name=test_efficientnet", "student.pretrained=false",
        "student.freeze_batch_norm=false", "data.image_size=24", f"teacher.name={teacher}",
        "training.steps=8", "training.batch_per_domain=4", "training.evaluate_every=3",
        "training.checkpoint_every=3", "training.log_every=1", "training.workers=0",
        "methods.scmd.selection.fraction=0.5",
        "average.average_start=4",
    )  # fmt: skip
    return ProtocolConfig(data=str(images), set=(*settings, *more), **changes)


def scored(step: int, holdout: float, **held_out: tuple[float, float, float] | float) -> dict:
    """A line of a log; a held-out domain's number stands for whole, part and holdout."""
    scores = {}
    for domain, given in held_out.items():
        values = given if isinstance(given, tuple) else (given, given, given)
        scores[domain] = dict(zip(("accuracy", "domainbed_part", "holdout"), values, strict=True))
    return {"step": step, "holdout_accuracy": holdout, "held_out": scores}


def record(
    label: str = "erm",
    lines: Sequence[dict[str, Any]] | float = 0.5,
    *,
    target: str = "art",
    also: tuple[str, ...] = (),
    trial: int = 0,
    draw: int = 0,
    domains: Sequence[str] = DOMAINS,
    data: str = "/data/pictures",
    average: AverageName = "sma",
    hparams: Mapping[str, Any] | None = None,
    **training: Any,
) -> Record:
    """A finished run of chosen scores; a number for ``lines`` is the accuracy of its only step."""
    if isinstance(lines, int | float):
        lines = [scored(STEP, 0.9, **{target: lines})]
    name, _, named = label.partition("@")
    method = "erm" if label in REFERENCES else ABLATIONS.get(name, (name, {}))[0]
    config = RunConfig(
        method=method,
        data=DataConfig(data, target=target, also_held_out=also),
        hparams=METHODS[method].Config(**(hparams or {})),
        training=TrainingConfig(seed=trial, **training),
        average=replace(AverageConfig(), average=named or average),  # type: ignore[arg-type]
    )
    # Of a domain that is held out besides the target a run scores the whole alone.
    for line in lines:
        for domain in also:
            if domain in line["held_out"]:
                line["held_out"][domain] = {"accuracy": line["held_out"][domain]["accuracy"]}
    best = max(lines, key=lambda line: line["holdout_accuracy"])
    own = best["held_out"].get(target, {"accuracy": 0.25, "domainbed_part": 0.75})
    summary = {
        "sources": [d for d in domains if d not in (target, *also)],
        "steps": 0 if label in REFERENCES else config.training.steps,
        "model_selection": {"step": best["step"]},
        "results": {
            target: {
                "accuracy": own["accuracy"],
                "domainbed_part": {"accuracy": own["domainbed_part"]},
                "per_class": {"cat": {"accuracy": own["accuracy"]}, "dog": {"accuracy": 1.0}},
            }
        },
    }
    held_out = "+".join((target, *also))
    folder = Path(f"{label}-{held_out}-{trial}-{draw}")
    return Record(folder, label, draw, config, list(lines), summary)


def write_comparison(out: Path, records: Sequence[Record], unfinished: Sequence[str] = ()) -> Path:
    """The folder that ``scmd protocol`` would have left of these runs; it may be there already."""
    out.mkdir(exist_ok=True)
    plan = read_json(out / "plan.json") if (out / "plan.json").exists() else {}
    for made in records:
        folder = out / made.folder
        folder.mkdir()
        save_config(made.config, folder / "config.toml")
        text = "".join(json.dumps(line) + "\n" for line in made.lines)
        (folder / "metrics.jsonl").write_text(text)
        write_json(folder / "summary.json", made.summary)
        write_json(folder / "done", {"seconds": 1.0})
        plan[made.folder.name] = {"label": made.label, "draw": made.draw}
    plan |= {name: {"label": "erm", "draw": 0} for name in unfinished}
    write_json(out / "plan.json", plan)
    return out
