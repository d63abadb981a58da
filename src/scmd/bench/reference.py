"""The reference: a training step written plainly, as SCMD's released code computes it.

What it does that our loop does not: it encodes the class prompts twice in every step, asks the
teacher about every kept image, selects by a separate forward in full precision, keeps the
channels-first layout, updates the average parameter by parameter, waits for the losses in every
step, and loads each domain by four processes of its own with PIL's transforms. It is written for
this benchmark, from the paper and DESIGN.md's account of the released code.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from scmd.bench.work import PROMPT, Work, random_teacher
from scmd.machine import keep_memory

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WORKERS_PER_DOMAIN = 4
TAU, LAMBDA1, LAMBDA2 = 3.0, 0.5, 0.5


class Reference:
    """One side of the benchmark.

    Args:
        work: What to train on what.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        if work.keep_memory:
            keep_memory()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.folders = self._folders()
        self.classes = self.folders[0].classes
        self.teacher, self.tokenizer = random_teacher(work.teacher)
        self.teacher.to(self.device)
        torch.manual_seed(0)
        self.backbone = timm.create_model(work.student, pretrained=False, num_classes=0)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        width = int(self.backbone.num_features)  # type: ignore[arg-type]
        space = self.teacher.text_projection.shape[1]
        self.classifier = nn.Linear(width, len(self.classes))
        self.projection = nn.Linear(width, space, bias=False)
        self.network = nn.ModuleList([self.backbone, self.classifier, self.projection])
        self.network.to(self.device)
        self.log_scale = nn.Parameter(torch.tensor(2.659, device=self.device))
        self.optimizer = torch.optim.Adam(
            [{"params": self.network.parameters()}, {"params": [self.log_scale], "lr": 1e-4}],
            lr=5e-5,
        )
        self.averaged = [p.detach().clone() for p in self.network.parameters()]
        self.averages = 0
        draw = torch.Generator().manual_seed(0)
        count = len(self.folders) * work.batch_per_domain
        size = (count, 3, work.image_size, work.image_size)
        self.images = torch.rand(size, generator=draw).to(self.device)
        self.labels = torch.randint(len(self.classes), (count,), generator=draw).to(self.device)

    def step(self, phase: str) -> None:
        """A step on a batch that is in memory."""
        self._step(self.images, self.labels, phase == "select")

    def run(self, phases: tuple[str, ...]) -> None:
        """Steps on batches that are loaded meanwhile."""
        for phase, (images, labels) in zip(phases, self._batches(len(phases)), strict=True):
            self._step(images.to(self.device), labels.to(self.device), phase == "select")

    def load(self, batches: int) -> None:
        """Load batches, and do nothing with them."""
        for _ in self._batches(batches):
            pass

    def _step(self, images: Tensor, labels: Tensor, selecting: bool) -> None:
        if selecting:
            self.backbone.eval()
            with torch.no_grad():
                losses = F.cross_entropy(
                    self.classifier(self.backbone(images)), labels, reduction="none"
                )
            self._train_mode()
            kept = losses.topk(int(self.work.fraction * len(labels))).indices
            images, labels = images[kept], labels[kept]
        with torch.autocast("cuda", enabled=self.device.type == "cuda"):
            features = self.backbone(images)
            logits = self.classifier(features)
            with torch.no_grad():
                seen = F.normalize(self.teacher.encode_image(self._resized(images)).float(), dim=-1)
                texts = self._encode_prompts()
                again = self._encode_prompts()
                opinion = self.teacher.logit_scale.exp() * seen @ texts.T
            projected = F.normalize(self.projection(features).float(), dim=-1)
            aligned = self.log_scale.exp() * projected @ again.T
            target = F.softmax(opinion / TAU, dim=-1)
            ce = F.cross_entropy(logits, labels)
            kd = F.kl_div(F.log_softmax(logits / TAU, -1), target, reduction="batchmean")
            cm = F.kl_div(F.log_softmax(aligned / TAU, -1), target, reduction="batchmean")
            loss = ce + TAU**2 * (LAMBDA1 * kd + LAMBDA2 * cm)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._average()
        self.last = {"loss": loss.item(), "ce": ce.item(), "kd": kd.item(), "cm": cm.item()}

    def _train_mode(self) -> None:
        self.backbone.train()
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def _resized(self, images: Tensor) -> Tensor:
        # The released code has one size, the teacher's; with another there is something to do.
        size = tuple(self.teacher.visual.image_size)
        return images if images.shape[-2:] == size else F.interpolate(images, size)

    def _encode_prompts(self) -> Tensor:
        tokens = self.tokenizer([PROMPT.format(name) for name in self.classes]).to(self.device)
        return F.normalize(self.teacher.encode_text(tokens).float(), dim=-1)

    @torch.no_grad()
    def _average(self) -> None:
        self.averages += 1
        for mean, parameter in zip(self.averaged, self.network.parameters(), strict=True):
            mean.data = (mean.data * self.averages + parameter.data) / (1 + self.averages)

    def _folders(self) -> list[ImageFolder]:
        size = self.work.image_size
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.7, 1.0)),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(0.3, 0.3, 0.3, 0.3),
                v2.RandomGrayscale(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
        domains = sorted(folder for folder in self.work.data.iterdir() if folder.is_dir())
        return [ImageFolder(str(domain), transform) for domain in domains]

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        per_domain = self.work.batch_per_domain
        # There may be fewer cores than processes; so it was released.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loaders = [
            DataLoader(
                folder,
                per_domain,
                sampler=RandomSampler(folder, replacement=True, num_samples=steps * per_domain),
                num_workers=WORKERS_PER_DOMAIN,
                pin_memory=self.device.type == "cuda",
            )
            for folder in self.folders
        ]
        for parts in zip(*loaders, strict=True):
            images, labels = zip(*parts, strict=True)
            yield torch.cat(images), torch.cat(labels)


def phases_of(work: Work, steps: int) -> tuple[str, ...]:
    """The phases of so many steps, in a run's proportion: selecting first."""
    selecting = round((1 - work.last_fraction) * steps)
    return tuple(itertools.chain(["select"] * selecting, ["whole"] * (steps - selecting)))
