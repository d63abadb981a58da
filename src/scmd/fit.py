"""Fitting a teacher of one's own: the loop of ``scmd teacher fit``."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
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
from scmd.data.folder import DomainImages, load_domains, resolve_domain
from scmd.data.loader import Batch, DomainBatches, training_batches
from scmd.data.splits import holdout_mask
from scmd.deploy.evaluate import evaluate_teacher
from scmd.errors import ScmdError
from scmd.files import read_json, write_json
from scmd.finite import Losses
from scmd.machine import keep_memory
from scmd.models.fit import (
    CONFIG,
    WEIGHTS,
    Start,
    caption,
    contrastive,
    interpolate,
    open_start,
    padding,
    save_open_clip,
)
from scmd.models.fit_config import FitConfig
from scmd.models.images import Normalize, as_float
from scmd.models.prompts import class_texts
from scmd.models.teacher import CARD, TeacherConfig, seen_domains
from scmd.progress import TrainingProgress
from scmd.run_folder import held, is_content
from scmd.seeds import derive
from scmd.stopping import Stop

CHECKPOINTS, SETTINGS = "checkpoints", "fit.json"
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
    if not config.data:
        raise ScmdError("no data given. Name a folder domain/class/image, or a CSV manifest")
    data = load_domains(config.data, config.classes, one_is_enough=True)
    domains = [resolve_domain(data, name) for name in config.domains] or list(data.domains)
    held_out = holdout_mask(data, config.holdout, config.seed)
    rows = [data.rows(domain)[~held_out[data.rows(domain)]] for domain in domains]
    torch.manual_seed(config.seed)
    start = open_start(config.model, config.from_scratch, config.image_tower_weights)
    with held(out):
        write_json(out / SETTINGS, _settings(config))
        fitted = _fit(config, data, domains, rows, start, out, resume, console)
        save_open_clip(out, fitted, start.model_cfg, start.preprocess_cfg, config.half)
        seen = np.zeros(len(data), dtype=bool)
        seen[np.concatenate(rows)] = True
        card = _card(config, data, domains, seen, start, out)
        write_json(out / CARD, card)
        shutil.rmtree(out / CHECKPOINTS)
    return card


def _fit(
    config: FitConfig,
    data: DomainImages,
    domains: list[str],
    rows: list[np.ndarray],
    start: Start,
    out: Path,
    resume: bool,
    console: Console,
) -> dict[str, Tensor]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = start.model.to(device, memory_format=torch.channels_last)
    started_from = {name: value.clone() for name, value in model.state_dict().items()}
    size = start.preprocess_cfg["size"]
    size = size if isinstance(size, int) else size[0]
    mean, std = (tuple(start.preprocess_cfg[key]) for key in ("mean", "std"))
    normalize = Normalize((size, size), mean, std).to(device)
    optimizer = torch.optim.AdamW(_param_groups(model, config.weight_decay), lr=config.lr)
    state = load_checkpoint(out / CHECKPOINTS) if resume else None
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    first = state["steps"] if state else 0
    if config.decode_once:
        how = Augmentation(size, config.flip, config.augmentation)
        data = replace(data, decoded=decode_once(data, how.shorter_side, size, console))
    captions = _Captions(config, data, start.tokenizer)
    batches = DomainBatches(data, rows, config.batch_per_domain, config.seed, first, config.steps)
    loader = training_batches(
        batches, data, size, config.seed, config.workers, device.type == "cuda", config.flip,
        augmentation=config.augmentation, device=device,
    )  # fmt: skip
    console.print(
        f"fitting {config.model} on {', '.join(domains)} ({sum(map(len, rows)):,} images, "
        f"{len(data.classes)} classes); image tower: {padding(model)}"
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


def _loss(model: Any, batch: Batch, normalize: Normalize, captions: _Captions, step: int) -> Tensor:
    pixels = normalize(as_float(batch.images)).contiguous(memory_format=torch.channels_last)
    tokens, place = captions.of(batch, step)
    images = model.encode_image(pixels, normalize=True)
    texts = model.encode_text(tokens.to(pixels.device), normalize=True)[place.to(pixels.device)]
    return contrastive(images, texts, batch.labels, model.logit_scale.exp())


class _Captions:
    """Draws a caption for every image; equal captions are encoded once."""

    def __init__(self, config: FitConfig, data: DomainImages, tokenizer: Callable) -> None:
        self.templates, self.seed = config.captions, config.seed
        self.domains = config.domains or data.domains
        self.texts = class_texts(data.classes, config.class_names)
        self.tokenizer = tokenizer

    def of(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Tokens of the different captions [U, L], and which of them each image has, [N]."""
        draw = np.random.default_rng(derive("captions", self.seed, step))
        drawn = draw.integers(len(self.templates), size=len(batch.labels))
        texts = [
            caption(self.templates[template], self.texts[label], self.domains[domain])
            for template, label, domain in zip(
                drawn, batch.labels.tolist(), batch.domains.tolist(), strict=True
            )
        ]
        different = sorted(set(texts))
        return self.tokenizer(different), torch.tensor([different.index(text) for text in texts])


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


def _card(
    config: FitConfig,
    data: DomainImages,
    domains: list[str],
    seen: np.ndarray,
    start: Start,
    out: Path,
) -> dict[str, Any]:
    before = [] if config.from_scratch else seen_domains(config.model)
    unseen = np.isin(data.domain_index, [data.domains.index(d) for d in domains]) & ~seen
    results = evaluate_teacher(TeacherConfig(str(out)), data, config.workers, unseen)["results"]
    return {
        "started_from": "random weights" if config.from_scratch else config.model,
        "architecture": config.model,
        "image_tower_weights": str(config.image_tower_weights or "") or None,
        "image_tower": padding(start.model),
        "seen": {
            "data": config.data,
            "images": int(seen.sum()),
            "domains": sorted({*before, *domains}),
            "classes": list(data.classes),
        },
        "captions": list(config.captions),
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
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        key = changed[0]
        raise ScmdError(
            f"{out} was started with other settings ({key}: {before.get(key)!r} -> {now[key]!r}). "
            "Pass the same, or choose another --out"
        )


def _settings(config: FitConfig) -> dict[str, Any]:
    plain = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(config).items()}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()}
