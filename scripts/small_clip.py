"""Train a small open_clip model on labelled images and save it in open_clip's own format.

It is no CLIP: it knows the classes that it was shown. It stands in for one where no pretrained
weights are at hand. Example:

    python scripts/small_clip.py DATA OUT --domains photo cartoon --tower mobilenetv2_100 \\
        --tower-weights weights.safetensors --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import cast

import numpy as np
import open_clip
import torch
import tyro
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from scmd.data.folder import load_domains
from scmd.data.loader import DomainBatches, training_batches
from scmd.data.splits import holdout_mask
from scmd.machine import keep_memory
from scmd.models.images import as_float
from scmd.models.prompts import readable
from scmd.models.weights import load_strictly, read_state_dict
from scmd.seeds import derive

TEMPLATES = ("this is a photo of a {}", "a {}", "a picture of a {}", "an image of one {}")
Triple = tuple[float, float, float]


def fit(
    data: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    domains: tuple[str, ...] = (),
    tower: str = "test_resnet",
    tower_weights: Path | None = None,
    mean: Triple = (0.5, 0.5, 0.5),
    std: Triple = (0.5, 0.5, 0.5),
    size: int = 64,
    seconds: float = 30,
    lr: float = 1e-3,
    batch: int = 32,
    seed: int = 0,
) -> None:
    """Fit image and text tower together, each image against the captions of all classes.

    Args:
        data: A folder domain/class/image.
        out: Folder for open_clip_config.json and open_clip_model.safetensors.
        domains: Train on these only. Default: all.
        tower: The image tower, a timm model.
        tower_weights: Start the image tower from this file.
        mean: Normalisation of the images.
        std: Normalisation of the images.
        size: Side of the images in pixels.
        seconds: How long to train.
        lr: Learning rate of AdamW.
        batch: Images of each domain in a step.
        seed: Of weights, order and split; the split's holdout is never trained on.
    """
    keep_memory()
    torch.manual_seed(seed)
    model_cfg = {
        "embed_dim": 64,
        "vision_cfg": {
            "timm_model_name": tower,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": size,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 64,
            "heads": 2,
            "layers": 2,
        },
    }
    preprocess_cfg = {
        "size": [size, size], "mean": mean, "std": std, "interpolation": "bilinear",
        "resize_mode": "squash",
    }  # fmt: skip
    model = open_clip.CustomTextCLIP(**model_cfg)
    if tower_weights:
        state = read_state_dict(tower_weights)
        trunk = cast(nn.Module, model.visual.trunk)
        own = trunk.state_dict()
        load_strictly(trunk, {k: v for k, v in state.items() if k in own}, tower_weights)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    images = load_domains(data)
    trained = ~holdout_mask(images, 0.2, seed)
    rows = [np.array([r for r in images.rows(d) if trained[r]]) for d in domains or images.domains]
    names = [readable(name) for name in images.classes]
    captions = [tokenizer([template.format(n) for n in names]) for template in TEMPLATES]
    offset, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    model.train().to(memory_format=torch.channels_last)
    if tower_weights:
        cast(
            nn.Module, model.visual.trunk
        ).eval()  # batch norm keeps the statistics that it came with
    batches = DomainBatches(images, rows, batch, derive("small clip", seed), 0, 10**6)
    began, step = time.perf_counter(), 0
    for step, part in enumerate(training_batches(batches, images, size, seed, 2, False)):
        elapsed = (time.perf_counter() - began) / seconds
        if elapsed >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, 10 * elapsed + 0.02, 2 * (1 - elapsed))
        pixels = ((as_float(part.images) - offset) / scale).contiguous(
            memory_format=torch.channels_last
        )
        features = model.encode_image(pixels, normalize=True)
        texts = model.encode_text(captions[step % len(captions)], normalize=True)
        loss = F.cross_entropy(model.logit_scale.exp() * features @ texts.T, part.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        if step % 20 == 0:
            print(f"step {step}  loss {loss.item():.3f}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg | {"custom_text": True}, "preprocess_cfg": preprocess_cfg}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        out / "open_clip_model.safetensors",
    )
    print(f"{step} steps in {time.perf_counter() - began:.0f} s; saved to {out}")


if __name__ == "__main__":
    tyro.cli(fit)
