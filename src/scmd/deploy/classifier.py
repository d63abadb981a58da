"""The student as it is deployed: two files, and a module that maps images to class logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save as serialize
from torch import Tensor, nn

from scmd.data.images import to_rgb
from scmd.data.transforms import evaluation_transform
from scmd.deploy.description import FORMAT, check_description
from scmd.errors import ScmdError
from scmd.files import read_json, write_json, writing_aside
from scmd.methods import Method
from scmd.models.images import as_float
from scmd.models.limits import no_larger_than
from scmd.models.student import StudentConfig, TimmBackbone, create_backbone
from scmd.models.weights import load_strictly, read_state_dict

MODEL, WEIGHTS = "model.json", "model.safetensors"


class Classifier(nn.Module):
    """A trained student.

    Maps float images in [0, 1] (or uint8), [B, 3, H, W], to class logits [B, C]; it resizes and
    normalises for itself.
    """

    def __init__(self, backbone: TimmBackbone, classes: Sequence[str], description: dict[str, Any]):
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.num_features, len(classes))
        self.classes = tuple(classes)
        self.description = description
        """What ``model.json`` says."""

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        return int(self.description["image_size"])

    @property
    def temperature(self) -> float:
        """What calibrated probabilities divide the logits by; 1 where none was fitted."""
        return float(self.description.get("temperature", 1.0))

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        return self.classifier(self.backbone(as_float(images)))

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image], calibrated: bool = True) -> Tensor:
        """Class probabilities [B, C] of pictures of any size and mode, as in ``scmd predict``.

        Args:
            images: The pictures; none is no error.
            calibrated: Divide the logits by the temperature; False: take them as they are.
        """
        if not images:
            return torch.zeros(0, len(self.classes))
        transform = evaluation_transform(self.image_size)
        batch = torch.stack([transform(to_rgb(image)) for image in images])
        logits = self(batch.to(next(self.parameters()).device))
        return (logits / self.temperature if calibrated else logits).softmax(1)


def save_classifier(
    folder: Path,
    method: Method,
    weights: dict[str, Tensor],
    student: StudentConfig,
    classes: Sequence[str],
    about: dict[str, Any],
) -> None:
    """Write ``model.safetensors`` and ``model.json``: all that inference needs.

    Args:
        folder: Where.
        method: Tells the backbone's normalisation.
        weights: A state dict of the method, projection included where there is one.
        student: The architecture.
        classes: The class names, in the order of the logits.
        about: What else the reader of the file should know.
    """
    backbone = method.backbone
    if not isinstance(backbone, TimmBackbone):
        raise ScmdError("only a timm student can be saved as a deployable model")
    description = {
        "format": FORMAT,
        "architecture": student.name,
        "args": list(student.args),
        "image_size": backbone.normalize.size[0],
        "mean": _shortest(backbone.normalize.mean),
        "std": _shortest(backbone.normalize.std),
        "resize": "to a square, bilinear, without keeping the aspect",
        "classes": list(classes),
        **about,
    }
    with writing_aside(folder / WEIGHTS) as file:
        file.write(serialize({name: value.contiguous() for name, value in weights.items()}))
    write_json(folder / MODEL, description)


def save_temperature(folder: Path, temperature: float) -> None:
    """Write the temperature of calibrated probabilities into a saved student's ``model.json``.

    Raises:
        ScmdError: There is no ``model.json``, or it is damaged.
    """
    write_json(folder / MODEL, _read_description(folder) | {"temperature": temperature})


def _shortest(values: Tensor) -> list[float]:
    """float32 as the shortest decimals that give the same bits again: 0.485, not 0.4850000143."""
    return [float(str(value)) for value in values.flatten().cpu().numpy()]


def load(path: str | Path) -> Classifier:
    """Load a trained student from a run's folder, any folder with its two files, or the hub.

    Args:
        path: The folder, or ``hub:owner/name``.

    Raises:
        ScmdError: A file is missing, damaged, or does not fit the other; the hub has no such model
            or cannot be reached.
    """
    if str(path).startswith("hub:"):
        from scmd.deploy.hub import fetch  # not needed, nor fast to import, for a local folder

        path = fetch(str(path))
    folder = Path(path)
    description = _read_description(folder)
    state = read_state_dict(folder / WEIGHTS)
    model = _build(description, sum(value.numel() for value in state.values()), folder / MODEL)
    own = ("backbone.", "classifier.")
    load_strictly(model, {k: v for k, v in state.items() if k.startswith(own)}, folder / WEIGHTS)
    model = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    require_numbers(model, folder / WEIGHTS)
    return model


def _build(description: dict[str, Any], elements: int, file: Path) -> Classifier:
    """The network that is described, if that is no larger than weights of so many elements."""
    student = StudentConfig(
        name=description["architecture"],
        args=tuple(description["args"]),
        pretrained=False,
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
    )
    try:
        with no_larger_than(elements, file):
            backbone = create_backbone(student, description["image_size"])
            return Classifier(backbone, description["classes"], description)
    except ScmdError as error:
        raise ScmdError(
            f"{file}: {error}" if str(file) not in str(error) else str(error)
        ) from error
    except Exception as error:  # timm's models refuse nonsense in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScmdError(f"{file} describes no network of timm: {reason}. Restore it") from error


@torch.inference_mode()
def require_numbers(model: Any, source: Path) -> None:
    """Try a model on noise of its image size.

    Raises:
        ScmdError: It cannot be run, or computes NaN or infinity.
    """
    side = model.image_size
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        logits = model(noise)
    except ScmdError:
        raise
    except Exception as error:  # whatever an architecture does not take
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScmdError(f"{source} cannot be run: {reason}. Restore it, or export again") from error
    if logits.shape != (1, len(model.classes)) or not bool(logits.isfinite().all()):
        raise ScmdError(
            f"{source} is of no use: the model computes NaN or infinity, or not one number for "
            "each class. Restore the file"
        )


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / MODEL
    if not file.is_file():
        raise ScmdError(
            f"{folder} holds no trained model: no {MODEL}. Give the folder of a finished run"
        )
    return check_description(read_json(file), file)
