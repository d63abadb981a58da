"""Fitting a teacher of one's own: the loop of ``scmd teacher fit``."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from scmd.checkpoint import load_checkpoint, save_checkpoint
from scmd.data.augment import Augmentation
from scmd.data.decode_once import decode_once
from scmd.data.loader import Batch, DomainBatches, training_batches
from scmd.deploy.evaluate import evaluate_teacher
from scmd.errors import ScmdError
from scmd.files import make_folder, read_json, write_json
from scmd.finite import Losses
from scmd.fit_roles import FitRoles, assign_fit_roles
from scmd.machine import keep_memory
from scmd.models.fit import (
    CONFIG,
    WEIGHTS,
    Captions,
    Start,
    contrastive,
    interpolate,
    open_start,
    padding,
    save_open_clip,
)
from scmd.models.fit_config import FitConfig
from scmd.models.images import Normalize, as_float
from scmd.models.pretrained import input_size
from scmd.models.prompts import PromptConfig
from scmd.models.teacher import CARD, TeacherConfig, seen_domains
from scmd.progress import TrainingProgress
from scmd.records import check_samples, write_samples
from scmd.run_folder import SAMPLES, held, is_content
from scmd.seeds import derive
from scmd.stopping import Stop

CHECKPOINTS, SETTINGS = "checkpoints", "fit.json"
_WITHOUT_EFFECT = ("decode_once", "workers", "checkpoint_every")  # on what is written
LOG_SCALE_MAX = math.log(100)


def fit_teacher(
    config: FitConfig, out: str | Path, resume: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Fit an open_clip model to labelled images and save it in open_clip's own format.

    Args:
        config: From what, on what, how.
        out: The folder; empty or absent, unless ``resume``.
        resume: Continue where a stopped fit was checkpointed; the result is the same to the bit.
        console: Where progress goes.

    Returns:
        The card, as in ``teacher.json``: what it started from, what it has seen, and its
        zero-shot accuracy on the images of each domain that it has not.

    Raises:
        ScmdError: Bad data, weights or captions; the folder holds something else, or another
            process writes to it.
        Stopped: By Ctrl-C or SIGTERM, after a checkpoint.
    """
    out, console = Path(out), console or Console()
    _check_folder(out, config, resume)
    if (out / CARD).exists() and resume:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # a kill may have left them
        console.print(f"{out} is finished already; nothing to resume", markup=False)
        return read_json(out / CARD)
    keep_memory()
    roles = assign_fit_roles(config, console)
    torch.manual_seed(config.seed)
    start = open_start(config.model, config.from_scratch, config.image_tower_weights)
    with held(out):
        write_json(out / SETTINGS, _settings(config))
        state = load_checkpoint(out / CHECKPOINTS) if resume else None
        _remember(out / CHECKPOINTS / SAMPLES, roles, bool(state))
        fitted = _fit(config, roles, start, out, state, console)
        save_open_clip(
            out, fitted, start.model_cfg, start.preprocess_cfg, config.half, start.tokenizer
        )
        card = _card(config, roles, start, out)
        write_json(out / CARD, card)
        shutil.rmtree(out / CHECKPOINTS)
    return card


def _remember(file: Path, roles: FitRoles, resumed: bool) -> None:
    """Other images have another split, and what was trained on would be scored."""
    if not resumed:
        make_folder(file.parent, "--out")
        write_samples(file, roles.data, roles.split)
    elif file.exists():
        check_samples(file, roles.data, roles.split)


def _fit(
    config: FitConfig,
    roles: FitRoles,
    start: Start,
    out: Path,
    state: dict[str, Any] | None,
    console: Console,
) -> dict[str, Tensor]:
    data, rows = roles.data, roles.train_rows()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = start.model.to(device, memory_format=torch.channels_last)
    started_from = {name: value.clone() for name, value in model.state_dict().items()}
    sides = input_size(start.preprocess_cfg)
    size = max(sides)
    mean, std = (tuple(start.preprocess_cfg[key]) for key in ("mean", "std"))
    normalize = Normalize(sides, mean, std).to(device)
    optimizer = torch.optim.AdamW(_param_groups(model, config.weight_decay), lr=config.lr)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    first = state["steps"] if state else 0
    if config.decode_once:
        how = Augmentation(size, config.flip, config.augmentation)
        data = replace(data, decoded=decode_once(data, how.shorter_side, size, console))
    captions = Captions(config, data, start.tokenizer)
    batches = DomainBatches(data, rows, config.batch_per_domain, config.seed, first, config.steps)
    loader = training_batches(
        batches, data, size, config.seed, config.workers, device.type == "cuda", config.flip,
        augmentation=config.augmentation, device=device,
    )  # fmt: skip
    console.print(
        f"fitting {config.model} on {', '.join(roles.domains)} ({sum(map(len, rows)):,} images, "
        f"{len(data.classes)} classes); image tower: {padding(model)}",
        markup=False,
    )
    model.train()
    if config.freeze_batch_norm:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    stop, losses = Stop(), Losses()
    with stop.listening(), TrainingProgress(console, first, config.steps, True) as progress:
        for step, batch in enumerate(loader, first):
            torch.manual_seed(derive("step", config.seed, step))
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(step, config.steps)
            loss = _loss(model, batch.to(device), normalize, captions, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, LOG_SCALE_MAX)
            losses.add(step, batch.sample_ids, {"loss": loss.detach()})
            last = step == config.steps - 1
            if step % 10 == 0 or last:
                losses.check()
                progress.losses({"loss": loss.item()})
            progress.step(len(batch.labels))
            stopping = stop.asked
            if (step + 1) % config.checkpoint_every == 0 or last or stopping:
                losses.check()
                save_checkpoint(
                    out / CHECKPOINTS,
                    step + 1,
                    {
                        "steps": step + 1,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
            if stopping:
                stop.leave(f"stopped after {step + 1} steps. Pass --resume to go on")
    fitted = interpolate(started_from, model.state_dict(), config.interpolate)
    return {name: value.cpu() for name, value in fitted.items()}


def _loss(model: Any, batch: Batch, normalize: Normalize, captions: Captions, step: int) -> Tensor:
    pixels = normalize(as_float(batch.images)).contiguous(memory_format=torch.channels_last)
    tokens, place = captions.of(batch, step)
    images = model.encode_image(pixels, normalize=True)
    texts = model.encode_text(tokens.to(pixels.device), normalize=True)[place.to(pixels.device)]
    return contrastive(images, texts, batch.labels, model.logit_scale.exp())


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first tenth of the steps, then down a cosine."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def _param_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _card(config: FitConfig, roles: FitRoles, start: Start, out: Path) -> dict[str, Any]:
    before = [] if config.from_scratch else seen_domains(config.model)
    data, seen = roles.data, roles.split == "train"
    prompts = PromptConfig(class_names=config.class_names)
    asked = TeacherConfig(str(out), prompts)
    results = evaluate_teacher(asked, data, config.workers, roles.split == "holdout")["results"]
    return {
        "started_from": "random weights" if config.from_scratch else config.model,
        "architecture": config.model,
        "image_tower_weights": str(config.image_tower_weights or "") or None,
        "image_tower": padding(start.model),
        "seen": {
            "data": config.data,
            "images": int(seen.sum()),
            "domains": sorted({*before, *roles.domains}),
            "classes": [data.classes[label] for label in np.unique(data.labels[seen])],
        },
        "captions": list(config.captions),
        "asked_with": list(prompts.templates),
        "interpolate": config.interpolate,
        "steps": config.steps,
        "seed": config.seed,
        "zero_shot_on_held_out_images": {
            domain: {key: result[key] for key in ("n", "accuracy", "interval")}
            for domain, result in results.items()
        },
        "fitted": time.strftime("%Y-%m-%d"),
    }


def _check_folder(out: Path, config: FitConfig, resume: bool) -> None:
    if out.is_file():
        raise ScmdError(f"{out} is a file. Choose another --out")
    if not out.exists() or not any(is_content(path) for path in out.iterdir()):
        return
    if (
        not (out / SETTINGS).exists()
        and not (out / CONFIG).exists()
        and not (out / WEIGHTS).exists()
    ):
        raise ScmdError(f"{out} is not empty and holds no teacher. Choose another --out")
    if not resume or not (out / SETTINGS).exists():
        raise ScmdError(
            f"{out} holds a teacher already. Pass --resume to continue it, or choose another --out"
        )
    before, now = read_json(out / SETTINGS), _settings(config)
    changed = [key for key in now if key not in _WITHOUT_EFFECT and before.get(key) != now[key]]
    if changed:
        key = changed[0]
        raise ScmdError(
            f"{out} was started with other settings ({key}: {before.get(key)!r} -> {now[key]!r}). "
            "Pass the same, or choose another --out"
        )


def _settings(config: FitConfig) -> dict[str, Any]:
    plain = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(config).items()}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()}
