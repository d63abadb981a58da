"""What fitting a teacher of one's own is made of; the loop is ``scmd.fit``.

An open_clip model is trained as CLIP was, with captions made of class and domain names (FLYP: Goyal
et al., CVPR 2023, arXiv:2212.00638), and may be interpolated with the weights that it started from
(WiSE-FT: Wortsman et al., CVPR 2022, arXiv:2109.01903).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from huggingface_hub import hf_hub_download
from open_clip import factory
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from open_clip.transform import PreprocessCfg
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.data.folder import DomainImages
from scmd.data.loader import Batch
from scmd.errors import ScmdError, ScmdWarning
from scmd.files import write_json, writing_aside
from scmd.models.fit_config import FitConfig
from scmd.models.open_clip_files import CONFIG, WEIGHTS, read_config
from scmd.models.pretrained import (
    input_size,
    open_pretrained,
    parse_name,
    strict_open_clip,
    usable,
)
from scmd.models.prompts import class_texts, readable, twins
from scmd.models.student import evaluating, head_of, without_head
from scmd.models.weights import load_strictly
from scmd.seeds import derive


class Start(NamedTuple):
    """A model to fit, and what has to be known to save it."""

    model: Any
    tokenizer: Any
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]


def contrastive(
    image_embeddings: Tensor, text_embeddings: Tensor, labels: Tensor, scale: Tensor
) -> Tensor:
    """CLIP's symmetric loss with several positives, a scalar.

    The mean of two cross-entropies of s · cos(image, text), over texts for every image and over
    images for every text. All texts of an image's class are its positives, each with the same
    share of the target, and all images of a text's class are the text's.

    Args:
        image_embeddings: L2-normalised, [N, E].
        text_embeddings: Of each image's own caption, L2-normalised, [N, E].
        labels: Classes, int64 [N].
        scale: s, a scalar.
    """
    logits = scale * image_embeddings.float() @ text_embeddings.float().T
    positives = (labels[:, None] == labels[None, :]).float()
    target = positives / positives.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def caption(template: str, class_name: str, domain: str) -> str:
    """A template with ``{class}`` and, if it likes, ``{domain}``, filled with readable names."""
    return template.replace("{class}", class_name).replace("{domain}", readable(domain))


class Captions:
    """Draws a caption for every image; equal captions are encoded once."""

    def __init__(self, config: FitConfig, data: DomainImages, tokenizer: Callable) -> None:
        self.templates, self.seed = config.captions, config.seed
        self.domains = config.domains or data.domains
        self.texts = class_texts(data.classes, config.class_names)
        self.tokenizer = tokenizer
        longest, domain = max(self.templates, key=len), max(self.domains, key=len)
        said = tokenizer([caption(longest, text, domain) for text in self.texts])
        if same := twins(data.classes, said):
            warnings.warn(
                f"captions say the same of {same[0]!r} and {same[1]!r}, which are pushed apart all "
                "the same. Give them other names (--class-names), or shorter captions",
                ScmdWarning,
                stacklevel=2,
            )

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


def open_start(name: str, from_scratch: bool, image_tower_weights: Path | None = None) -> Start:
    """The model that fitting starts from.

    Args:
        name: As for a teacher (NAME/TAG, ``hf-hub:``, a folder): architecture and weights. With
            ``from_scratch`` also NAME alone, or a JSON file with ``model_cfg`` and
            ``preprocess_cfg``, whose weights are drawn from torch's generator.
        from_scratch: Leave the weights aside.
        image_tower_weights: A state dict of the timm model that is the image tower; loaded
            strictly, but for its head.

    Raises:
        ScmdError: The model or weights cannot be had, do not fit, or do not compute.
    """
    model_cfg, preprocess_cfg, source = _read_cfg(name, from_scratch)
    if from_scratch:
        model, tokenizer = _build(model_cfg, preprocess_cfg, name, source)
    else:
        model, _, tokenizer = open_pretrained(name)
    if image_tower_weights is not None:
        load_image_tower(model, image_tower_weights)
    # The model's own, whose size is that of its image tower, whatever the file says.
    start = Start(model, tokenizer, model_cfg, open_clip.get_model_preprocess_cfg(model))
    with usable(name):
        _try(start)
    return start


@torch.no_grad()
def _try(start: Start) -> None:
    """See that both towers take what they are given, and that their embeddings compare."""
    with evaluating(start.model):
        pixels = torch.zeros(1, 3, *input_size(start.preprocess_cfg))
        image = start.model.encode_image(pixels, normalize=True)
        text = start.model.encode_text(start.tokenizer(["a photo"]), normalize=True)
        torch.matmul(image, text.T)


def load_image_tower(model: Any, weights: Path) -> None:
    """Load a bare timm state dict into ``visual.trunk``, strictly but for the timm head.

    The trunk's own head, where it has one, projects to the embeddings, and stays as it was drawn.
    open_clip's own ``pretrained_image_path`` loads nothing from such a file, silently.

    Raises:
        ScmdError: The image tower is no timm model, or the file does not fit.
    """
    trunk = getattr(model.visual, "trunk", None)
    if trunk is None:
        raise ScmdError(
            f"--image-tower-weights {weights}: the image tower is not a timm model. Leave the "
            "file out, or choose a model with timm_model_name in its vision_cfg"
        )
    kept = {n: v for n, v in trunk.state_dict().items() if n.startswith(head_of(trunk))}
    load_strictly(trunk, without_head(trunk, weights) | kept, weights)


def padding(model: Any) -> str:
    """Which padding the image tower's convolutions have; open_clip cannot pass timm's pad_type."""
    trunk = getattr(model.visual, "trunk", None)
    if trunk is None:
        return "open_clip's own tower"
    same = any(type(module).__name__ == "Conv2dSame" for module in trunk.modules())
    return "timm, 'same' padding as in TensorFlow" if same else "timm, symmetric padding"


def interpolate(
    start: Mapping[str, Tensor], fitted: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 - α) · start + α · fitted, weight by weight; what is no float is the fitted one's."""
    return {
        name: torch.lerp(start[name], value, alpha) if value.is_floating_point() else value
        for name, value in fitted.items()
    }


def save_open_clip(
    folder: Path,
    state: Mapping[str, Tensor],
    model_cfg: Mapping[str, Any],
    preprocess_cfg: Mapping[str, Any],
    half: bool = False,
    tokenizer: Any = None,
) -> None:
    """Write a model as open_clip's ``local-dir:`` reads it; ``half`` stores floats as fp16.

    A tokenizer that has files of its own is written, too: open_clip looks for them there.
    """
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    state = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous()
        for name, value in state.items()
    }
    with writing_aside(folder / WEIGHTS) as file:
        file.write(serialize(state))
    write_json(folder / CONFIG, {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg})


def _read_cfg(name: str, from_scratch: bool) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """``model_cfg``, ``preprocess_cfg``, and what open_clip calls it: None for a JSON file."""
    default = asdict(PreprocessCfg())
    if name.endswith(".json"):
        if not from_scratch:
            raise ScmdError(
                f"{name} has no weights. Pass --from-scratch, or name a model with some"
            )
        given = read_config(Path(name), bare=True)
        return given["model_cfg"], default | given["preprocess_cfg"], None
    bare = from_scratch and name in open_clip.list_models()
    model = name if bare else parse_name(name)[0]
    if model.startswith("hf-hub:"):
        try:
            file = Path(hf_hub_download(model.removeprefix("hf-hub:"), CONFIG))
        except Exception as error:  # the hub raises all sorts
            raise ScmdError(f"{name}: {CONFIG} cannot be had: {error}") from error
    elif model.startswith("local-dir:"):
        file = Path(model.removeprefix("local-dir:")) / CONFIG
    else:
        return dict(open_clip.get_model_config(model) or {}), default, model
    given = read_config(file)
    return given["model_cfg"], default | given["preprocess_cfg"], model


def _build(
    model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any], name: str, source: str | None
) -> tuple[nn.Module, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_json(
            Path(folder) / CONFIG, {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
        )
        try:
            with strict_open_clip(name):
                model = open_clip.create_model(
                    f"local-dir:{folder}", load_weights=False, pretrained_text=False
                )
                words = model_cfg["text_cfg"]
                if source is None and words.get("hf_tokenizer_name"):
                    return model, factory.HFTokenizer(
                        words["hf_tokenizer_name"],
                        context_length=words.get("context_length", DEFAULT_CONTEXT_LENGTH),
                        tokenizer_mode=words.get("tokenizer_mode"),
                        **(words.get("tokenizer_kwargs") or {}),
                    )
                return model, open_clip.get_tokenizer(source or f"local-dir:{folder}")
        except Exception as error:  # open_clip raises all sorts
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ScmdError(f"{name}: no model can be made of its model_cfg: {reason}") from error
