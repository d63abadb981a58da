"""Fitting a teacher of one's own: the loop of ``scmd teacher fit``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from scmd.checkpoint import load_checkpoint, save_checkpoint
from scmd.data.folder import ClassPolicy, DomainImages, load_domains, resolve_domain
from scmd.data.loader import Batch, DomainBatches, training_batches
from scmd.data.splits import holdout_mask
from scmd.deploy.evaluate import evaluate_teacher
from scmd.errors import ScmdError
from scmd.files import read_json, write_json
from scmd.machine import keep_memory
from scmd.models.fit import (
    CONFIG,
    WEIGHTS,
    Start,
    caption,
    check_captions,
    contrastive,
    interpolate,
    open_start,
    padding,
    save_open_clip,
)
from scmd.models.images import Normalize, as_float
from scmd.models.prompts import class_texts
from scmd.models.teacher import CARD, DEFAULT_TEACHER, TeacherConfig
from scmd.progress import TrainingProgress
from scmd.seeds import derive

CHECKPOINTS, SETTINGS = "checkpoints", "fit.json"
LOG_SCALE_MAX = math.log(100)


@dataclass(frozen=True)
class FitConfig:
    """How a teacher is fitted."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="data", metavar="DATA")] = ""
    """A folder domain/class/image, or a CSV manifest."""
    model: str = DEFAULT_TEACHER
    """What to start from: open_clip's NAME/TAG, hf-hub:OWNER/NAME, a folder in open_clip's
    format; with --from-scratch also NAME, or a JSON file with model_cfg and preprocess_cfg."""
    from_scratch: bool = False
    """Draw the weights at random."""
    image_tower_weights: Path | None = None
    """Start the image tower, a timm model, from this file."""
    domains: tuple[str, ...] = ()
    """Fit on these domains only. Default: all."""
    classes: ClassPolicy = "strict"
    """Where domains differ in their classes: refuse, keep all, or keep the shared ones."""
    captions: tuple[str, ...] = (
        "a {domain} of a {class}",
        "a {class}",
        "this is a photo of a {class}",
    )
    """Templates; one is drawn for every image and step."""
    class_names: Path | None = None
    """TOML or JSON that maps classes to what captions call them."""
    interpolate: float = 1.0
    """α of WiSE-FT: 1 keeps the fitted weights, 0 those it started from."""
    steps: int = 1000
    """Optimizer steps."""
    batch_per_domain: int = 32
    """Images of each domain in a step."""
    lr: float = 1e-5
    """Learning rate of AdamW at its peak; it rises over a tenth of the steps, then falls to 0."""
    weight_decay: float = 0.1
    """Of AdamW; not for biases, norms and scales."""
    freeze_batch_norm: bool = False
    """Keep the running statistics of batch norm as they are."""
    flip: bool = True
    """Mirror images by chance; off where left and right matter."""
    half: bool = False
    """Store the weights in fp16."""
    holdout: float = 0.2
    """Part of every domain that is not trained on, to score the result."""
    seed: int = 0
    """Of split, weights, order, captions and augmentation."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    workers: int = 2
    """Processes that decode and augment."""

    def __post_init__(self) -> None:
        check_captions(self.captions)
        for name in ("steps", "batch_per_domain", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ScmdError(f"{name} = {getattr(self, name)}: give a whole number from 1")
        for name in ("seed", "workers"):
            if getattr(self, name) < 0:
                raise ScmdError(f"{name} = {getattr(self, name)}: give a whole number from 0")
        if not 0 <= self.interpolate <= 1:
            raise ScmdError(f"interpolate = {self.interpolate}: give a number in [0, 1]")
        if not 0 < self.lr < math.inf:
            raise ScmdError(f"lr = {self.lr}: give a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ScmdError(f"weight_decay = {self.weight_decay}: give a number from 0")
        if not 0 < self.holdout < 1:
            raise ScmdError(f"holdout = {self.holdout}: give a number between 0 and 1")


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
        ScmdError: Bad data, weights or captions; the folder holds something else.
    """
    out, console = Path(out), console or Console()
    if (out / CARD).exists() and resume:
        console.print(f"{out} is finished already; nothing to resume")
        return read_json(out / CARD)
    _check_folder(out, config, resume)
    keep_memory()
    if not config.data:
        raise ScmdError("no data given. Name a folder domain/class/image, or a CSV manifest")
    data = load_domains(config.data, config.classes, one_is_enough=True)
    domains = [resolve_domain(data, name) for name in config.domains] or list(data.domains)
    held_out = holdout_mask(data, config.holdout, config.seed)
    rows = [data.rows(domain)[~held_out[data.rows(domain)]] for domain in domains]
    torch.manual_seed(config.seed)
    start = open_start(config.model, config.from_scratch, config.image_tower_weights)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SETTINGS, _settings(config))
    fitted = _fit(config, data, domains, rows, start, out, resume, console)
    save_open_clip(out, fitted, start.model_cfg, start.preprocess_cfg, config.half)
    seen = np.zeros(len(data), dtype=bool)
    seen[np.concatenate(rows)] = True
    card = _card(config, data, domains, seen, start, out)
    write_json(out / CARD, card)
    for path in (out / CHECKPOINTS).glob("*.pt"):
        path.unlink()
    (out / CHECKPOINTS).rmdir()
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
    captions = _Captions(config, data, start.tokenizer)
    batches = DomainBatches(data, rows, config.batch_per_domain, config.seed, first, config.steps)
    loader = training_batches(
        batches, data, size, config.seed, config.workers, device.type == "cuda", config.flip
    )
    console.print(
        f"fitting {config.model} on {', '.join(domains)} ({sum(map(len, rows)):,} images, "
        f"{len(data.classes)} classes); image tower: {padding(model)}"
    )
    model.train()
    if config.freeze_batch_norm:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    with TrainingProgress(console, first, config.steps, True) as progress:
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
            if step % 10 == 0 or step == config.steps - 1:
                progress.losses({"loss": _finite(loss.item(), step)})
            progress.step(len(batch.labels))
            if (step + 1) % config.checkpoint_every == 0 or step == config.steps - 1:
                save_checkpoint(
                    out / CHECKPOINTS,
                    step + 1,
                    {
                        "steps": step + 1,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
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


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise ScmdError(f"step {step}: the loss is {loss}. Lower --lr; the last checkpoint is kept")
    return loss


def _card(
    config: FitConfig,
    data: DomainImages,
    domains: list[str],
    seen: np.ndarray,
    start: Start,
    out: Path,
) -> dict[str, Any]:
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
            "domains": domains,
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
    if not out.exists() or not any(out.iterdir()):
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
