"""A student that classifies against any text, through the projection that SCMD trained.

L_CM moves P f(x) to where the teacher's text tower puts the class texts; softmax(g cos(P f(x), t))
then ranks other texts t as well. How well it does, and that it does not reach far beyond the
trained classes, is measured in docs/asking.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from scmd.config import load_config
from scmd.deploy.classifier import WEIGHTS, Classifier, load, require_numbers
from scmd.deploy.description import public_name
from scmd.deploy.onnx import is_onnx
from scmd.errors import ScmdError
from scmd.files import writing_aside
from scmd.losses import cross_modality_logits
from scmd.models.images import as_float
from scmd.models.pretrained import encode_prompts, open_pretrained, parse_name, usable
from scmd.models.prompts import PromptConfig, class_prompts
from scmd.models.weights import load_strictly, read_state_dict
from scmd.run_folder import CONFIG
from scmd.store import cache_root

SAVED = "@"
"""Before the name of saved classes."""


class TextClassifier(nn.Module):
    """A trained student with texts in the place of its classes.

    Maps float images in [0, 1] (or uint8), [B, 3, H, W], to g · cos(P f(x), t), [B, T].

    Args:
        student: f, and its description.
        projection: P.
        log_scale: γ; g = exp(γ).
        texts: What the T classes are called.
        embeddings: t, L2-normalised, [T, E].
    """

    embeddings: Tensor

    def __init__(
        self,
        student: Classifier,
        projection: nn.Linear,
        log_scale: Tensor,
        texts: Sequence[str],
        embeddings: Tensor,
    ) -> None:
        super().__init__()
        self.backbone = student.backbone
        self.projection = projection
        self.log_scale = nn.Parameter(log_scale)
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.classes = tuple(texts)
        self.image_size = student.image_size
        self.description = student.description
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        projected = self.projection(self.backbone(as_float(images)))
        return cross_modality_logits(projected, self.embeddings, self.log_scale.exp())


def load_promptable(run: str | Path, classes: Sequence[str] | str) -> TextClassifier:
    """Load a run's student with texts in the place of its classes.

    Args:
        run: The folder of a finished run of SCMD, or of a configuration of it; or as for ``load``.
        classes: Texts, as ``prompts_for`` reads them, which ask the teacher's text tower; or the
            name of texts that ``save_classes`` has stored there, which ask nobody.

    Raises:
        ScmdError: The run has no trained projection, its teacher cannot be loaded, or there are no
            such saved classes.
    """
    if str(run).startswith("hub:"):
        from scmd.deploy.hub import fetch  # as in ``load``

        run = fetch(str(run))
    folder = Path(run)
    if is_onnx(folder):
        raise ScmdError(
            f"{folder} was exported, and takes no other classes. Give the folder of the run that "
            "it was made of"
        )
    student = load(folder)
    state = read_state_dict(folder / WEIGHTS)
    if "projection.weight" not in state or "log_scale" not in state:
        raise ScmdError(
            f"{folder} was trained by {student.description.get('method', 'another method')}, which "
            "does not tie the student to texts. Give a run of scmd"
        )
    if _untrained(folder):
        raise ScmdError(
            f"{folder} was trained with lambda2 = 0: its projection has learned nothing. Give a "
            "run with L_CM"
        )
    projection, log_scale = _text_space(student, state, folder / WEIGHTS)
    teacher = str(student.description.get("teacher"))
    if isinstance(classes, str):
        texts, embeddings = _load_classes(folder, classes, teacher)
    else:
        texts = list(classes)
        if len(texts) == 1 and os.path.exists(folder / f"classes-{texts[0]}.safetensors"):
            raise ScmdError(f"classes {texts[0]!r}: give at least two texts, or {SAVED}{texts[0]}")
        prompts = prompts_for(texts, student.classes, prompt_config(folder))
        embeddings = text_embeddings(teacher, prompts)
    if embeddings.shape != (len(texts), projection.out_features):
        raise ScmdError(
            f"the teacher {teacher} has text embeddings of {embeddings.shape[-1]} numbers, the "
            f"projection of {folder} has {projection.out_features}. Give the teacher that the run "
            "was trained with"
        )
    model = TextClassifier(student, projection, log_scale, texts, embeddings)
    require_numbers(model, folder / WEIGHTS)
    return model


def _text_space(
    student: Classifier, state: Mapping[str, Tensor], file: Path
) -> tuple[nn.Linear, Tensor]:
    """P and γ, checked against the student: P maps its features, γ is one number."""
    parts = nn.Module()
    rows = max(1, len(state["projection.weight"]) if state["projection.weight"].ndim else 0)
    parts.projection = nn.Linear(student.backbone.num_features, rows, bias=False)
    parts.log_scale = nn.Parameter(torch.zeros(()))
    own = {name: value for name, value in state.items() if name in parts.state_dict()}
    load_strictly(parts, own, file)
    return parts.projection, parts.log_scale.detach()


def parse_classes(given: str) -> list[str] | str:
    """What ``--classes`` says: texts with commas between them, or @ and the name of saved ones."""
    if given.startswith(SAVED):
        return given.removeprefix(SAVED)
    return [text.strip() for text in given.split(",")]


def prompt_config(run: Path) -> PromptConfig:
    """The prompts that a run was trained with; the default ones where its config.toml is gone."""
    file = run / CONFIG
    return load_config(file).teacher.prompts if file.exists() else PromptConfig()


def prompts_for(
    texts: Sequence[str], trained: Sequence[str], config: PromptConfig | None = None
) -> list[list[str]]:
    """What the text tower reads about each text.

    A class that was trained on has the prompts of its training. Another single word is a class
    name, and put into the run's templates (``polar_bear`` reads "polar bear"). A text with a space
    is taken as it is.

    Args:
        texts: Trained class names, words and texts.
        trained: The student's classes.
        config: The run's prompts.

    Raises:
        ScmdError: No text, an empty one, or one that is there twice; as ``class_prompts``.
    """
    config = config or PromptConfig()
    if len(texts) < 2 or not all(text.strip() for text in texts):
        raise ScmdError(
            f"classes {', '.join(texts)!r}: give at least two texts, none of them empty"
        )
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise ScmdError(f"class {twice[0]!r} is there twice. Give it once")
    words = [text for text in texts if text not in trained and " " not in text]
    known = dict(zip(trained, class_prompts(trained, config), strict=True))
    templates = PromptConfig(config.templates)
    new = dict(zip(words, class_prompts(words, templates), strict=True)) if words else {}
    return [known.get(text) or new.get(text) or [text] for text in texts]


def text_embeddings(teacher: str, prompts: Sequence[Sequence[str]]) -> Tensor:
    """A teacher's L2-normalised embeddings of texts, [T, E]; asked once, and then remembered.

    Args:
        teacher: As ``TeacherConfig.name``.
        prompts: Of each text.

    Raises:
        ScmdError: As ``load_teacher``.
    """
    file = cache_root() / "texts" / f"{_key(teacher, prompts)}.safetensors"
    try:
        found = load_file(file)["embeddings"]
        if _are_embeddings(found, len(prompts)):
            return found
    except (OSError, KeyError, SafetensorError):
        pass  # absent or damaged: it is made anew
    model, _, tokenizer = open_pretrained(teacher)
    with usable(teacher):
        embeddings = encode_prompts(model, tokenizer, prompts)
        if not _are_embeddings(embeddings, len(prompts)):
            raise ValueError("its text tower computes NaN or infinity")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with writing_aside(file) as aside:
            aside.write(serialize({"embeddings": embeddings}))
    except (OSError, ScmdError):
        pass  # the next time asks again
    return embeddings


def save_classes(run: Path, name: str, model: TextClassifier) -> Path:
    """Store a model's texts and their embeddings beside it, for ``--classes @NAME``.

    Returns:
        The file.

    Raises:
        ScmdError: A name that is no plain file name, or the folder cannot be written.
    """
    file = _classes_file(run, name)
    about = {"texts": json.dumps(model.classes), "teacher": str(model.description.get("teacher"))}
    with writing_aside(file) as aside:
        aside.write(serialize({"embeddings": model.embeddings.cpu().contiguous()}, about))
    return file


def _load_classes(run: Path, name: str, teacher: str) -> tuple[list[str], Tensor]:
    file = _classes_file(run, name)
    if not file.is_file():
        there = sorted(path.stem.removeprefix("classes-") for path in run.glob("classes-*"))
        raise ScmdError(
            f"{run} has no saved classes {name!r} (saved: {', '.join(there) or 'none'}). Save them "
            f'with --classes "..." --save-classes {name}'
        )
    try:
        with safe_open(file, framework="pt") as opened:
            about, embeddings = opened.metadata(), opened.get_tensor("embeddings")
        texts: Any = json.loads(about["texts"])
        asked = about["teacher"]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("its texts are no list of texts")
        if len(set(texts)) != len(texts) or len(texts) < 2:
            raise ValueError("it has fewer than two texts, or one of them twice")
        if not _are_embeddings(embeddings, len(texts)):
            raise ValueError("it has not one embedding of finite float32 numbers for each text")
    except (OSError, TypeError, KeyError, ValueError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ScmdError(f"{file} is damaged: {reason}. Save the classes again") from error
    if teacher not in (asked, public_name(asked)):  # a published student has the latter
        raise ScmdError(
            f"{file} has embeddings of the teacher {asked!r}, {run} was trained with {teacher!r}. "
            "Save the classes again"
        )
    return texts, embeddings


def _are_embeddings(value: Tensor, count: int) -> bool:
    """Whether it is float32, finite, [count, E]."""
    right = value.dtype == torch.float32 and value.ndim == 2 and len(value) == count
    return right and bool(value.isfinite().all())


def _classes_file(run: Path, name: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ScmdError(f"saved classes {name!r}: give a name of letters, digits, - and _")
    return run / f"classes-{name}.safetensors"


def _untrained(run: Path) -> bool:
    file = run / CONFIG
    return file.exists() and getattr(load_config(file).hparams, "lambda2", 1.0) == 0


def _key(teacher: str, prompts: Sequence[Sequence[str]]) -> str:
    """A local teacher may be fitted anew under its name: its files' sizes and times count."""
    model, _ = parse_name(teacher)
    folder = Path(model.removeprefix("local-dir:"))
    found = sorted(folder.iterdir()) if model.startswith("local-dir:") and folder.is_dir() else []
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in found if p.is_file()]
    asked = json.dumps([str(folder.resolve()) if files else teacher, files, prompts])
    return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()
