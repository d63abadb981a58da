"""A teacher that was asked before the training, and remembers: on the disk, for all runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import open_clip
import PIL
import torch
import torchvision
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.data.augment import Augmentation, AugmentationName
from scmd.data.digests import file_numbers
from scmd.data.folder import DomainImages
from scmd.data.loader import evaluation_batches, training_batches
from scmd.data.views import EachView, FixedViews
from scmd.errors import LEAVE_OUT, BadImageError, ScmdError
from scmd.files import write_json
from scmd.models.embeddings import EmbeddingTable
from scmd.models.images import as_float
from scmd.models.teacher import CLIPTeacher, TeacherConfig, scaled_cosines
from scmd.progress import counting
from scmd.store import cache_root, exclusive

BATCH = 64
"""Images that the teacher is asked about at once."""
WRITE_EVERY = 512
"""Embeddings between two writes: as many can be lost to a kill."""


class RememberingTeacher(nn.Module):
    """Looks up by number what a ``CLIPTeacher`` makes of images, and looks at no image.

    Embeddings are kept in half precision and normalised again, which moves a logit by at most
    s/1024 of its scale s, and by a fiftieth of that in the mean.

    Args:
        beneath: The teacher that was asked; it stays where it is when this one is moved.
        ids: What it was asked about, int64 [n].
        places: Per id, its row of the table, int64 [n].
        table: Embeddings, float16 [rows, E].
        views: The fixed views that the ids stand for; None where they are sample ids.
    """

    text_embeddings: Tensor
    scale: Tensor

    def __init__(
        self,
        beneath: CLIPTeacher,
        ids: np.ndarray,
        places: np.ndarray,
        table: np.ndarray,
        views: FixedViews | None = None,
    ) -> None:
        super().__init__()
        self._beneath = (beneath,)  # not a part of this module
        order = np.argsort(ids)
        self._ids, self._places, self._table = ids[order], places[order], table
        self.views = views
        self.register_buffer("text_embeddings", beneath.text_embeddings, persistent=False)
        self.register_buffer("scale", beneath.model.logit_scale.detach().exp(), persistent=False)

    @property
    def beneath(self) -> CLIPTeacher:
        """The teacher that was asked."""
        return self._beneath[0]

    @property
    def image_size(self) -> int:
        """The side of the images that a batch must carry for its sake; 0: it needs none."""
        return 0 if self.views is None else self.beneath.image_size

    def logits(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        """See ``Teacher.logits``. Raises as ``embeddings``."""
        return scaled_cosines(self.embeddings(images, sample_ids), self.text_embeddings, self.scale)

    def embeddings(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        """φ_img, L2-normalised: float32 [B, E]. Arguments as for ``logits``.

        Raises:
            ScmdError: It was not asked about one of the ids, or what it remembers is damaged.
        """
        asked = sample_ids.cpu().numpy()
        place = np.searchsorted(self._ids, asked).clip(max=len(self._ids) - 1)
        unknown = asked[self._ids[place] != asked]
        if len(unknown):
            raise ScmdError(
                f"the teacher was not asked about the image {unknown[0]} before the training, and "
                "remembers nothing about it. Use --teacher-view augmented"
            )
        found = torch.from_numpy(np.asarray(self._table[self._places[place]])).float()
        if not bool(((found.norm(dim=1) - 1).abs() < 0.01).all()):
            raise ScmdError(
                f"the teacher's embeddings in {cache_root() / 'teacher'} are damaged. Remove that "
                "folder; it is made anew"
            )
        return F.normalize(found, dim=1).to(self.text_embeddings.device)


class _Questions:
    """What a teacher is asked about: clean images, or fixed views of them."""

    def __init__(
        self, teacher: CLIPTeacher, config: TeacherConfig, data: DomainImages, rows: np.ndarray,
        numbers: np.ndarray, augmentation: Augmentation, workers: int,
    ) -> None:  # fmt: skip
        self.teacher, self.data, self.rows = teacher, data, rows
        self.augmentation, self.workers = augmentation, workers
        self.views: FixedViews | None = None
        self.keys, self.ids = numbers, data.ids[rows]
        if config.view == "fixed":
            self.of_all = np.zeros(len(data), np.int64)
            self.of_all[rows] = numbers
            self.views = FixedViews(self.of_all, config.views)
            seeds = [self.views.seed(r, v) for r in rows.tolist() for v in range(config.views)]
            self.keys = self.ids = np.array(seeds, np.int64)
        self.about = {
            "teacher": config.name,
            "view": config.view,
            "preprocessing": self._preprocessing(),
            "versions": {"pillow": PIL.__version__, "torchvision": torchvision.__version__},
        }

    def _preprocessing(self) -> dict[str, Any]:
        """All that an image goes through before the image tower sees it."""
        if self.views is None:
            return dict(open_clip.get_model_preprocess_cfg(self.teacher.model))
        normalize = self.teacher.normalize
        return {
            "augmentation": self.augmentation.description,
            "size": list(normalize.size),
            "interpolation": normalize.interpolation.value,
            "mean": normalize.mean.flatten().tolist(),
            "std": normalize.std.flatten().tolist(),
        }

    def embeddings(self, of: np.ndarray, device: torch.device) -> Iterator[Tensor]:
        """Of the questions at these places, in order, batch by batch: [b, E], on the CPU."""
        if self.views is None:
            batches = evaluation_batches(
                self.data, self.rows[of], self.teacher.image_size, BATCH, self.workers,
                self.teacher.preprocess,
            )  # fmt: skip
            try:
                for pixels in batches:
                    yield self.teacher.normalized_embeddings(_laid_out(pixels.to(device))).cpu()
            except BadImageError as error:
                raise BadImageError(f"{error}, or {LEAVE_OUT}") from error
            return
        row_of, view_of = np.divmod(of, self.views.count)
        slots = [
            (view, 0, row, 0)
            for view, row in zip(view_of.tolist(), self.rows[row_of].tolist(), strict=True)
        ]
        batches = training_batches(
            [slots[first : first + BATCH] for first in range(0, len(slots), BATCH)],
            self.data, self.augmentation.size, 0, self.workers, False, self.augmentation.flip,
            EachView(self.views.numbers, self.views.count), self.augmentation.name, device,
        )  # fmt: skip
        for batch in batches:
            images = as_float(_laid_out(batch.images.to(device)))
            yield self.teacher.embeddings(images).cpu()


def tower_of(teacher: object) -> CLIPTeacher | None:
    """The image-text model of a teacher, or beneath one that remembers; None where it has none."""
    if isinstance(teacher, RememberingTeacher):
        return teacher.beneath
    return teacher if isinstance(teacher, CLIPTeacher) else None


def remember(
    teacher: CLIPTeacher,
    config: TeacherConfig,
    data: DomainImages,
    rows: np.ndarray,
    size: int,
    flip: bool,
    workers: int,
    device: torch.device,
    console: Console,
    ask: bool = True,
    augmentation: AugmentationName = "tensor",
) -> RememberingTeacher:
    """Ask a teacher about images that no run has asked it about yet, and remember all of them.

    Its answers lie under ``scmd.store.cache_root``, by the weights of the image tower, what an
    image goes through before it, and the bytes of the image's file. Prompts may change. It may
    be killed at any moment and goes on where it was; of several processes one asks.

    Args:
        teacher: Who is asked.
        config: Its ``view``, clean or fixed.
        data: The data set.
        rows: The samples that it is asked about, int64 [n].
        size: The side of a batch's images, for fixed views.
        flip: As for training, for fixed views.
        workers: Processes that decode.
        device: Where the teacher computes, and where this one's answers are.
        console: For the progress.
        ask: Whether to ask; else the answers are made up where one is missing, and good for
            nothing but to see how long a step takes.
        augmentation: As for training, for fixed views.

    Raises:
        ScmdError: An image cannot be decoded, or the cache cannot be written.
    """
    with counting(console, "reading files") as progress:
        numbers = file_numbers(data, rows, progress)
    how = Augmentation(size, flip, augmentation)
    questions = _Questions(teacher, config, data, rows, numbers, how, workers)
    folder = cache_root() / "teacher" / _key(teacher, questions.about)
    table = EmbeddingTable(folder, teacher.text_embeddings.shape[1])
    if ask and len(_missing(questions, table)):
        with exclusive(folder, lambda: console.print("another process asks the teacher; waiting")):
            _ask(questions, table, device, console)
    places, found = table.places(questions.keys), table.rows()
    if not ask and (places < 0).any():
        places = np.zeros_like(places)
        found = np.full((1, table.width), table.width**-0.5, np.float16)
    remembering = RememberingTeacher(teacher, questions.ids, places, found, questions.views)
    return remembering.to(device)


def _missing(questions: _Questions, table: EmbeddingTable) -> np.ndarray:
    """The places of the questions without an answer; of equal ones the first. int64 [n]."""
    keys, first = np.unique(questions.keys, return_index=True)
    return np.sort(first[table.places(keys) < 0])


def _ask(
    questions: _Questions, table: EmbeddingTable, device: torch.device, console: Console
) -> None:
    missing = _missing(questions, table)
    write_json(table.folder / "about.json", questions.about)
    teacher = questions.teacher
    home = teacher.text_embeddings.device
    teacher.to(device)
    written, waiting = 0, []
    with counting(console, "asking the teacher") as progress:
        for embeddings in questions.embeddings(missing, device):
            if not bool(embeddings.isfinite().all()):
                raise ScmdError(
                    f"teacher {questions.about['teacher']!r} makes numbers of an image that are "
                    "not finite. Choose another, or other weights of it"
                )
            waiting.append(embeddings.numpy())
            held = sum(map(len, waiting))
            if held >= WRITE_EVERY or written + held == len(missing):
                table.append(
                    questions.keys[missing[written : written + held]], np.concatenate(waiting)
                )
                written, waiting = written + held, []
            progress(written + sum(map(len, waiting)), len(missing))
    teacher.to(home)


def _key(teacher: CLIPTeacher, about: dict[str, Any]) -> str:
    """Of what decides what an embedding is, besides the image: the name of its folder."""
    digest = hashlib.blake2b(digest_size=16)
    what = {name: about[name] for name in ("view", "preprocessing", "versions")}
    digest.update(repr(sorted(what.items())).encode())
    tower = teacher.model.visual
    for name, module in tower.named_modules():
        # What is no weight: the kind of activation, of pooling, and the like.
        settings = {
            key: value
            for key, value in vars(module).items()
            if _is_plain(value) and key != "training" and not key.startswith("_")
        }
        digest.update(repr((name, type(module).__name__, sorted(settings.items()))).encode())
    for name, value in tower.state_dict().items():
        digest.update(repr((name, value.dtype, tuple(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str)


def _laid_out(images: Tensor) -> Tensor:
    """As the training lays them out, since the order of sums depends on it."""
    return images.contiguous(memory_format=torch.channels_last)
