"""The teacher: any open_clip model, frozen, asked for its opinion on images."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import open_clip
import torch
import tyro
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from scmd.errors import ScmdError, ScmdWarning
from scmd.files import read_json
from scmd.models.answers import Answers
from scmd.models.images import Normalize
from scmd.models.pretrained import (
    DEFAULT_TEACHER,
    encode_prompts,
    input_size,
    open_pretrained,
    parse_name,
    usable,
)
from scmd.models.prompts import PromptConfig, class_prompts, twins
from scmd.models.student import Triple

TeacherView = Literal["augmented", "clean", "fixed"]


@dataclass(frozen=True)
class TeacherConfig:
    """The frozen image-text model, and how it is asked."""

    name: Annotated[str, tyro.conf.arg(name="teacher")] = DEFAULT_TEACHER
    """open_clip's NAME/TAG, hf-hub:OWNER/NAME, a local folder in open_clip's format, or
    embedded (digits only)."""
    prompts: Annotated[PromptConfig, tyro.conf.arg(name="")] = field(default_factory=PromptConfig)
    mean: Annotated[Triple | None, tyro.conf.arg(name="teacher-mean")] = None
    """Normalisation of the teacher's input; default: its own."""
    std: Annotated[Triple | None, tyro.conf.arg(name="teacher-std")] = None
    """As teacher-mean."""
    view: Annotated[TeacherView, tyro.conf.arg(name="teacher-view")] = "augmented"
    """What the teacher is asked about. augmented: what the student sees, in every step (the paper).
    clean: the image as it is. fixed: what the student sees, of --teacher-views views of each image.
    Answers to clean and fixed are kept on the disk: no step of a training runs the teacher."""
    views: Annotated[int, tyro.conf.arg(name="teacher-views")] = 10
    """Augmented views of every image, with --teacher-view fixed."""

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ScmdError(f"views = {self.views}: give a whole number from 1")
        if self.view == "clean" and (self.mean or self.std):
            raise ScmdError(
                "view = 'clean' takes images through the teacher's own transform, whose "
                "normalisation is its own. Leave mean and std out (where a preset sets them: "
                "--teacher-mean None --teacher-std None), or choose another view"
            )


class Teacher(Protocol):
    """What a method asks of a teacher; any object will do that has these two.

    ``logits`` is handed the same images as the student's backbone: float32 in [0, 1],
    [B, 3, H, W], at the batch's size, *not normalised*. Each network resizes and normalises for
    itself. A method asks without gradient, and only about the samples that it trains on.
    """

    text_embeddings: Tensor
    """One row per class, L2-normalised: [C, E]."""

    def logits(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        """Opinions [B, C]: s · cos(φ_img(x), t), with the model's scale, without temperature.

        Args:
            images: float32 in [0, 1], not normalised: [B, 3, H, W].
            sample_ids: The batch's ``teacher_ids``, int64 [B], for teachers that remember: sample
                ids, or the numbers of fixed views.
        """
        ...


class CLIPTeacher(nn.Module):
    """An open_clip model with one text embedding per class; always in eval mode, no gradient."""

    text_embeddings: Tensor

    def __init__(
        self,
        model: Any,
        text_embeddings: Tensor,
        normalize: Normalize,
        preprocess: Callable[[Image.Image], Tensor],
    ) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False)
        self.normalize = normalize
        self.preprocess = preprocess
        """The model's own transform, from a picture to its normalised input [3, H, W]."""
        self.register_buffer("text_embeddings", text_embeddings, persistent=False)
        self.answers: Answers | None = None
        """Where several runs ask: what was answered before."""
        self._half: dict[tuple[torch.dtype, torch.device], nn.Module | None] = {}
        self.eval()

    @property
    def image_size(self) -> int:
        """The side of the smallest square that holds what the image tower sees, in pixels."""
        return max(self.normalize.size)

    def train(self, mode: bool = True) -> CLIPTeacher:
        """Stays in eval mode, whatever it is asked for."""
        return super().train(False)

    @torch.no_grad()
    def logits(self, images: Tensor, sample_ids: Tensor | None = None) -> Tensor:
        """See ``Teacher.logits``."""
        return self.opinion(self.embeddings(images))

    @torch.no_grad()
    def normalized_logits(self, pixels: Tensor) -> Tensor:
        """The same for input that is resized and normalised already: [B, 3, size, size]."""
        return self.opinion(self.normalized_embeddings(pixels))

    @torch.no_grad()
    def normalized_embeddings(self, pixels: Tensor) -> Tensor:
        """φ_img, L2-normalised, of input that is resized and normalised: float32 [B, E]."""
        tower = self._half_tower(pixels.device)
        if tower is None:
            return self.model.encode_image(pixels, normalize=True).float()
        with torch.autocast(pixels.device.type, enabled=False):
            features = tower(pixels.to(next(tower.parameters()).dtype))
        return F.normalize(features.float(), dim=-1)

    def _half_tower(self, device: torch.device) -> nn.Module | None:
        """Under autocast, a copy of the image tower whose weights have that precision already.

        Autocast would round the same weights in every step. A tower with batch norm, whose
        statistics want more, is left to it, and so is a model that does more than ask its tower.
        """
        if not torch.is_autocast_enabled(device.type):
            return None
        key = (torch.get_autocast_dtype(device.type), device)
        if key not in self._half:
            plain = type(self.model) in (open_clip.CLIP, open_clip.CustomTextCLIP)
            visual = self.model.visual
            able = plain and not any(isinstance(part, _BatchNorm) for part in visual.modules())
            self._half[key] = copy.deepcopy(visual).to(key[0]) if able else None
        return self._half[key]

    @torch.no_grad()
    def embeddings(self, images: Tensor, sample_ids: Tensor | None = None) -> Tensor:
        """φ_img(x), L2-normalised: float32 [B, E]. Arguments as for ``logits``."""
        if self.answers is None:
            return self._look_at(images)
        return self.answers.to(images, self._look_at)

    def _look_at(self, images: Tensor) -> Tensor:
        return self.normalized_embeddings(self.normalize(images))

    def opinion(self, embeddings: Tensor) -> Tensor:
        """s · cos(e, t), [B, C], of normalised image embeddings e, [B, E]."""
        return scaled_cosines(embeddings, self.text_embeddings, self.model.logit_scale.exp())


def scaled_cosines(embeddings: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """s · cos(e, t), [B, C], of L2-normalised embeddings [B, E] and texts [C, E], where t is."""
    embeddings = embeddings.to(texts.device)
    # Autocast would multiply in half precision, where logits near 25 are 1/8 apart.
    with torch.autocast(embeddings.device.type, enabled=False):
        return scale * embeddings @ texts.T


def load_teacher(config: TeacherConfig, classes: Sequence[str]) -> CLIPTeacher:
    """Load an open_clip model and encode the prompts of ``classes``, once.

    Warns:
        ScmdWarning: Two classes are the same to it.

    Raises:
        ScmdError: The model or its weights cannot be had, do not fit each other, or compute no
            numbers; it was trained with another GELU than its configuration has; or the prompts
            are unusable.
    """
    prompts = class_prompts(classes, config.prompts)
    model, preprocess, tokenizer = open_pretrained(config.name)
    with usable(config.name):
        cfg = open_clip.get_model_preprocess_cfg(model)
        normalize = Normalize(
            input_size(cfg),
            config.mean or tuple(cfg["mean"]),
            config.std or tuple(cfg["std"]),
            cfg["interpolation"] if cfg["interpolation"] in ("bilinear", "bicubic") else "bicubic",
        )
        texts = encode_prompts(model, tokenizer, prompts)
        teacher = CLIPTeacher(model, texts, normalize, preprocess)
        try_on_noise(teacher)
    if same := twins(classes, texts):
        warnings.warn(
            f"the teacher {config.name} is told the same of {same[0]!r} and {same[1]!r}, and does "
            "not tell them apart. Give them other names (--class-names), or shorter prompts",
            ScmdWarning,
            stacklevel=2,
        )
    return teacher


def try_on_noise(teacher: CLIPTeacher) -> None:
    """Ask a teacher about an image of noise.

    Raises:
        ValueError: What it says is not finite.
    """
    shape = (1, 3, *teacher.normalize.size)
    noise = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    if not bool(teacher.logits(noise).isfinite().all()):
        raise ValueError("it computes NaN or infinity; its weights are damaged")


CARD = "teacher.json"


def seen_domains(name: str) -> list[str]:
    """The domains that a teacher was fitted on, as its card says; empty where it has no card."""
    model, _ = parse_name(name)
    card = Path(model.removeprefix("local-dir:")) / CARD
    if not model.startswith("local-dir:") or not card.is_file():
        return []
    try:
        domains = read_json(card)["seen"]["domains"]
    except (KeyError, TypeError, IndexError) as error:
        raise ScmdError(
            f"{card} is no card of a teacher: no {error}. Remove or restore it"
        ) from error
    if not isinstance(domains, list) or not all(isinstance(name, str) for name in domains):
        raise ScmdError(
            f"{card} is no card of a teacher: seen.domains = {domains!r}. Expected a list of "
            "texts. Remove or restore it"
        )
    return domains
