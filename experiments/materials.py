"""What runs need and no one has at hand: data sets, teachers. Made once, by name.

A configuration calls them by names that begin with @; here the names become paths. A teacher of
digits that knows less than the embedded one is @teachers/IMAGESxSTEPS: fitted as that one is, to so
many images of each digit in each of four kinds, in so many steps (the embedded one: 800x2500).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from scmd.config import RunConfig
from scmd.data.halves import NAMES
from scmd.demo import digits_folder
from scmd.errors import ScmdError
from scmd.models.teacher import CARD

SCRIPTS = Path(__file__).parents[1] / "scripts"

# Two of the scripts make teachers as they are made here.
sys.path.append(str(SCRIPTS))


@dataclass(frozen=True)
class Materials:
    """Where things are.

    Args:
        folder: Where what is made is kept.
        pacs: The folder of PACS, for the experiments that need it.
        weights: ImageNet weights of timm's mobilenetv2_100 (mean and std 0.5, pad_type=same).
    """

    folder: Path
    pacs: Path | None = None
    weights: Path | None = None

    def resolve(self, config: RunConfig) -> RunConfig:
        """With paths in the place of names; what is not there yet is made."""
        weights = config.student.weights
        return replace(
            config,
            data=replace(config.data, path=self.path(config.data.path)),
            teacher=replace(config.teacher, name=self.path(config.teacher.name)),
            student=replace(config.student, weights=weights and Path(self.path(str(weights)))),
        )

    def there(self, name: str) -> bool:
        """Whether a name is a path, or of what is made or takes a moment."""
        return name == "@digits" or not name.startswith("@") or self._file(name).exists()

    def _file(self, name: str) -> Path:
        """What is there last when a name's thing is made."""
        if name == "@pacs/half":
            return self.folder / "pacs" / "halves" / NAMES[1]
        return self.folder / name[1:] / CARD

    def path(self, name: str) -> str:
        """Of what a name stands for, which is made where it is not there."""
        if not name.startswith("@"):
            return name
        self.folder.mkdir(parents=True, exist_ok=True)
        if name == "@digits":
            return str(digits_folder(self.folder))
        if name == "@mobilenetv2_100":
            return str(_asked_for(self.weights, "--weights FILE, of timm's mobilenetv2_100"))
        if name.startswith("@pacs/"):
            return str(self._of_pacs(name))
        match = re.fullmatch(r"@teachers/(\d+)x(\d+)", name)
        if match is None:
            raise ScmdError(f"there is no {name!r}")
        return str(self._teacher(int(match[1]), int(match[2])))

    def _teacher(self, images: int, steps: int) -> Path:
        """A teacher of digits, fitted as the embedded one is, to less."""
        folder = self.folder / "teachers" / f"{images}x{steps}"
        if not (folder / CARD).exists():
            import embedded_teacher  # type: ignore[import-not-found]

            work = self.folder / "teachers" / f"work-{images}"
            work.mkdir(parents=True, exist_ok=True)
            embedded_teacher.main(work, folder, images, steps)
        return folder

    def _of_pacs(self, name: str) -> Path:
        """What no teacher has seen, or a teacher that has seen the rest, of 128 or 224 px."""
        import pacs_standin  # type: ignore[import-not-found]

        fits = {
            "@pacs/teacher": (128, 400, "torchvision"),
            "@pacs/teacher-224": (224, 1000, "tensor"),
        }
        if name != "@pacs/half" and name not in fits:
            raise ScmdError(f"there is no {name!r}")
        out, file = self.folder / "pacs", self._file(name)
        if not file.exists():
            pacs_standin.halve(_asked_for(self.pacs, "--pacs FOLDER, of PACS"), out)
        if name not in fits:
            return file
        if not file.exists():
            weights = _asked_for(self.weights, "--weights FILE, of timm's mobilenetv2_100")
            pacs_standin.teach(out, file.parent.name, weights, *fits[name])
        return file.parent


def _asked_for(given: Path | None, what: str) -> Path:
    if given is None:
        raise ScmdError(f"this experiment needs {what}")
    return given.resolve()
