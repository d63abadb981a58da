"""What every method is: a module that turns a batch into a loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.methods.search import Choice, SearchSpace
from scmd.models.teacher import Teacher
from scmd.selection import Decisions

Output = Mapping[str, Tensor | Decisions]
"""``loss`` and the scalar parts to log; ``decisions`` where a method chooses its samples."""

SMALLEST = 1.2e-38
"""Of positive numbers in float32."""
MOST_UNITS = 8192
"""Of a hidden layer of a method's own."""


@dataclass(frozen=True)
class MethodConfig:
    """Hyper-parameters that every method has."""

    lr: float = 5e-5
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """Coupled weight decay (added to the gradient, as Adam does)."""
    decay_all: bool = False
    """Decay biases, norms and scales too, as the released code does."""

    def __post_init__(self) -> None:
        self.require_positive("lr")
        self.require_weight("weight_decay")

    def phases(self) -> tuple[float, ...]:
        """Where in a run, as parts of its steps, the method begins to do something else."""
        return ()

    def require_positive(self, *names: str) -> None:
        """Raise a ScmdError unless the fields are finite numbers above 0, in float32 too."""
        for name in names:
            if not 0 < getattr(self, name) < math.inf:
                raise ScmdError(f"{name} = {getattr(self, name)}: give a number above 0")
            if getattr(self, name) < SMALLEST:
                raise ScmdError(f"{name} = {getattr(self, name)}: give a number from {SMALLEST}")

    def require_weight(self, *names: str) -> None:
        """Raise a ScmdError unless the fields are finite numbers from 0."""
        for name in names:
            if not 0 <= getattr(self, name) < math.inf:
                raise ScmdError(f"{name} = {getattr(self, name)}: give a number from 0")


T = TypeVar("T")


class Held(Generic[T]):
    """Holds a network out of ``parameters()``, ``state_dict()`` and copies of a method."""

    def __init__(self, value: T) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict) -> Held[T]:
        return self


class Method(nn.Module):
    """A student in training.

    Args:
        backbone: Maps float images in [0, 1], [B, 3, H, W], *not normalised*, to features
            [B, F]; it resizes and normalises for itself. Where it has an attribute
            ``num_features`` that is F; else F is taken from the first forward.
        teacher: See ``scmd.Teacher``; None for a method that asks none.
        config: Its hyper-parameters, of the class's own ``Config``.
        num_classes: C; may be left out where the teacher's text embeddings tell it.
        num_domains: D, the number of sources; only methods that tell domains apart need it.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs_teacher: ClassVar[bool] = True
    search_space: ClassVar[SearchSpace] = {
        "lr": Choice((3e-5, 5e-5)),
        "weight_decay": Choice((1e-4, 1e-6)),
    }

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: Any = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__()
        if self.needs_teacher and teacher is None:
            raise ScmdError(f"{type(self).__name__} needs a teacher")
        if num_classes is None:
            if teacher is None:
                raise ScmdError(f"{type(self).__name__} needs num_classes or a teacher")
            num_classes = len(teacher.text_embeddings)
        if teacher is not None and len(teacher.text_embeddings) != num_classes:
            raise ScmdError(
                f"the teacher has text embeddings of {len(teacher.text_embeddings)} classes, the "
                f"student is to have {num_classes}"
            )
        self.config = config if config is not None else self.Config()
        self.num_classes = num_classes
        self._num_domains = num_domains
        self._teacher = Held(teacher)
        self.backbone = backbone
        self.classifier = linear(backbone, num_classes)

    @property
    def teacher(self) -> Teacher:
        """The teacher; asking a method that has none is a mistake of the caller."""
        if self._teacher.value is None:
            raise ScmdError(f"{type(self).__name__} was built without a teacher")
        return self._teacher.value

    @property
    def num_domains(self) -> int:
        """D; a method that tells domains apart has to be told."""
        if self._num_domains is None:
            raise ScmdError(f"{type(self).__name__} needs num_domains, the number of sources")
        return self._num_domains

    @torch.no_grad()
    def teacher_embeddings(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        """The teacher's image embeddings, L2-normalised: [B, E]. Arguments as for its logits."""
        embeddings = getattr(self.teacher, "embeddings", None)
        if embeddings is None:
            raise ScmdError(
                f"{type(self).__name__} needs a teacher with embeddings(images, sample_ids); "
                f"{type(self.teacher).__name__} has none"
            )
        return embeddings(images, sample_ids)

    @abstractmethod
    def forward(self, batch: Batch, progress: float) -> Output:
        """One step's loss.

        Args:
            batch: Images, labels, domains and sample ids.
            progress: The step, counted from 0, over the number of steps.
        """

    def predict(self, images: Tensor) -> Tensor:
        """Class logits [B, C] of float images in [0, 1], [B, 3, H, W]."""
        return self.classifier(self.backbone(images))

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates and decays, for the optimizer."""
        return list(self.groups(self.named_parameters(), self.config.lr))

    def groups(self, named: Iterable[tuple[str, Tensor]], lr: float) -> Iterable[dict[str, Any]]:
        """Group parameters at one rate: weights decay; biases, norms and scales do not."""
        weights, rest = [], []
        for name, parameter in named:
            # A lazy layer's parameters have no dimensions yet.
            vector = name.endswith(".bias") if is_lazy(parameter) else parameter.ndim <= 1
            (rest if vector and not self.config.decay_all else weights).append(parameter)
        for parameters, decay in ((weights, self.config.weight_decay), (rest, 0.0)):
            if parameters:
                yield {"params": parameters, "lr": lr, "weight_decay": decay}

    def groups_apart(self, prefix: str, lr: float) -> list[dict[str, Any]]:
        """``param_groups`` in which the parameters whose names begin so have their own rate."""
        named = list(self.named_parameters())
        own = [(name, p) for name, p in named if name.startswith(prefix)]
        others = [(name, p) for name, p in named if not name.startswith(prefix)]
        return [*self.groups(others, self.config.lr), *self.groups(own, lr)]

    def after_step(self) -> None:
        """What follows the optimizer's step."""


class ProjectingMethod(Method):
    """A method with P, a linear map without bias from the features into the teacher's space."""

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: Any = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        self.projection = linear(backbone, self.teacher.text_embeddings.shape[1], bias=False)


def linear(backbone: nn.Module, out_features: int, bias: bool = True) -> nn.Linear:
    """A linear map from a backbone's features; lazy where their number is not known."""
    num_features = getattr(backbone, "num_features", None)
    if num_features is None:
        return nn.LazyLinear(out_features, bias=bias)
    return nn.Linear(int(num_features), out_features, bias=bias)
