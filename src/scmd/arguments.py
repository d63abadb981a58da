"""What each command is told: its flags, with their help and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from scmd.bench.run import BenchConfig
from scmd.config import RunConfig
from scmd.data.digits import DOMAINS
from scmd.data.folder import ClassPolicy
from scmd.demo import DemoConfig
from scmd.models.fit_config import FitConfig
from scmd.models.prompts import PromptConfig
from scmd.protocol.plan import ProtocolConfig
from scmd.protocol.present import TablesConfig
from scmd.protocol.spread import SpreadConfig


@dataclass(frozen=True)
class TrainCommand:
    """Train a student on the source domains of a data set and measure it on the target.

    Settings come from the preset, then the configuration file, then the flags. With --method,
    the method's own hyper-parameters are shown below.
    """

    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the run. Default: runs/DATA-TARGET-METHOD-seedN."""
    config: Path | None = None
    """A TOML file of settings, e.g. another run's config.toml."""
    preset: str = "default"
    """default, paper (the released code's behaviour), paper-domainnet, or digits (for the embedded
    data set)."""
    resume: bool = False
    """Continue the run in --out, as it was configured, where it was stopped; begin it where there
    is none."""


@dataclass(frozen=True)
class EvaluateCommand:
    """Measure a trained student on every domain of a data set."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run."""
    data: tyro.conf.Positional[str]
    """A folder domain/class/image or a CSV manifest; its classes are matched by name."""
    json: Path | None = None
    """Write the numbers here, too."""
    workers: int = 2
    """Processes that decode images."""


@dataclass(frozen=True)
class PredictCommand:
    """Classify images with a trained student, in its classes or (scmd) against any text.

    An image that cannot be read is reported in the output, and does not end the command; exit
    status 1 where none could be read.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a finished run, or one that was exported to ONNX, or an ONNX file of it."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, folders of them, or quoted patterns ('new/**/*.jpg'); - reads one path per line
    from the standard input."""
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    """csv, parquet: a row per image and rank. jsonl: a line per image."""
    top: int = 1
    """How many classes to give for each image."""
    calibration: bool = True
    """Divide the logits by the temperature that was fitted on the sources' holdout."""
    min_confidence: float = 0.0
    """Abstain (give no class) where the best class is less probable."""
    classes: str | None = None
    """Classify against texts instead: "zebra, lion, a picture of nothing". A single word is put
    into the run's prompt (polar_bear for two); a text with spaces is taken as it is. Needs a run of
    scmd, and its teacher. @NAME: texts that were saved, which need no teacher."""
    save_classes: str | None = None
    """Store the texts of --classes and their embeddings beside the model, under this name."""
    out: Path | None = None
    """File to write; default: standard output."""
    workers: int = 2
    """Processes that decode images."""


@dataclass(frozen=True)
class ExportCommand:
    """Write a trained student as a folder that needs neither scmd nor, as ONNX, PyTorch.

    The result is compared with PyTorch on held-out images of the sources; where it differs, exit
    status 2 and no folder.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a finished run."""
    out: Path
    """The folder to make."""
    to: Literal["onnx", "torch"] = "onnx"
    """onnx: for any ONNX runtime. torch: a program of torch.export."""
    int8: bool = False
    """Write an 8-bit model, too, calibrated on training images, and measure what it loses."""
    benchmark: bool = False
    """Print sizes and latencies on this machine's CPU."""
    data: Path | None = None
    """The run's data set, where it is no longer where config.toml says."""


@dataclass(frozen=True)
class BenchCommand:
    """Time training steps and the loader beside a plain step as SCMD's released code computes it.

    Both sides have the same model, images and teacher, and take turns, each in a process of its
    own. Ratios are given with their range over the rounds. Let nothing else run.
    """

    bench: Annotated[BenchConfig, tyro.conf.arg(name="")] = field(default_factory=BenchConfig)
    out: Path | None = None
    """Write the tables into this Markdown file, between its two marks, or as a new file; default:
    standard output."""


@dataclass(frozen=True)
class TeacherEvalCommand:
    """Print a teacher's zero-shot accuracy per domain and class, with its own transform."""

    teacher: tyro.conf.Positional[str]
    """open_clip's NAME/TAG, hf-hub:OWNER/NAME, or a local folder in open_clip's format."""
    data: tyro.conf.Positional[str]
    """A folder domain/class/image or a CSV manifest."""
    prompts: Annotated[PromptConfig, tyro.conf.arg(name="")] = field(default_factory=PromptConfig)
    classes: ClassPolicy = "strict"
    """Where domains differ in their classes: refuse, keep all, or keep the shared ones."""
    json: Path | None = None
    """Write the numbers here, too."""
    workers: int = 2
    """Processes that decode images."""


@dataclass(frozen=True)
class TeacherFitCommand:
    """Train an open_clip model on labelled images, as CLIP was trained.

    It is saved in open_clip's own format, so that the folder can be given as --teacher. Its
    teacher.json says what the model has seen.
    """

    out: Path
    """Folder of the result."""
    fit: Annotated[FitConfig, tyro.conf.arg(name="")] = field(default_factory=FitConfig)
    resume: bool = False
    """Continue a stopped fit in --out."""


@dataclass(frozen=True)
class DataDigitsCommand:
    """Write the embedded data set as an ordinary folder: handwritten digits in four styles."""

    out: tyro.conf.Positional[Path]
    """The folder to make."""
    styles: tuple[str, ...] = DOMAINS
    """Which styles; halftone and neon can be had besides."""


@dataclass(frozen=True)
class DataGetCommand:
    """Fetch a benchmark set from where it is published, as a folder domain/class/image.

    Sources are tried in order; what was fetched is checked, unpacked, arranged and counted. It can
    be stopped at any moment; the same command goes on where it was.
    """

    name: tyro.conf.Positional[str] = ""
    """pacs, vlcs, office-home, terra-incognita, domain-net, sviro, camelyon17, rotated-mnist or
    colored-mnist; without a name, the list of sets is printed."""
    out: Path | None = None
    """The folder to make. Default: data/ and the name of the set, e.g. data/PACS."""
    allow_differences: bool = False
    """Take it even if it does not hold as many images as were published."""
    keep_archives: bool = False
    """Leave what was downloaded in a hidden folder beside --out."""


@dataclass(frozen=True)
class DataImportCommand:
    """Make a folder domain/class/image of a copy of a benchmark set, and check what it holds.

    The copy is only read.
    """

    name: tyro.conf.Positional[str]
    """Which set it is: a name that scmd data get prints."""
    path: tyro.conf.Positional[Path]
    """Its folder, an archive of it, or a folder of its archives."""
    out: Path | None = None
    """The folder to make. Default: data/ and the name of the set, e.g. data/PACS."""
    link: bool = False
    """Make hard links of a folder's images, which take no room, and do not copy them."""
    check_only: bool = False
    """Compare the folder with what was published, and write nothing; exit status 1 where it
    differs."""
    allow_differences: bool = False
    """Take it even if it does not hold as many images as were published."""


@dataclass(frozen=True)
class DataCheckCommand:
    """Decode and hash every image; exit status 1 where a data set has errors."""

    data: tyro.conf.Positional[str]
    """A folder domain/class/image or a CSV manifest."""
    classes: ClassPolicy = "strict"
    """Where domains differ in their classes: refuse, keep all, or keep the shared ones."""


@dataclass(frozen=True)
class DataHalvesCommand:
    """Halve a data set at random, so that a teacher can be fitted on one half and students on the
    other. Every class of every domain is halved; equal pictures stay together.
    """

    data: tyro.conf.Positional[str]
    """A folder domain/class/image or a CSV manifest."""
    out: Path
    """Folder for the two manifests, a.csv and b.csv."""
    classes: ClassPolicy = "strict"
    """Where domains differ in their classes: refuse, keep all, or keep the shared ones."""
    seed: int = 0
    """Of the choice."""


@dataclass(frozen=True)
class ProtocolCommand:
    """Hold out every domain in turn, train every method several times, and compare.

    It can be stopped at any moment; the same command goes on where it was.
    """

    protocol: Annotated[ProtocolConfig, tyro.conf.arg(name="")] = field(
        default_factory=ProtocolConfig
    )
    out: Path | None = None
    """Folder of the runs. Default: runs/protocol-DATA."""
    dry_run: bool = False
    """Print the runs and how long they should take, and do nothing."""
    soup: bool = False
    """In the end, average the weights of each method's trials, and measure that, too."""
    spread: Annotated[SpreadConfig, tyro.conf.arg(name="")] = field(default_factory=SpreadConfig)


@dataclass(frozen=True)
class TablesCommand:
    """Print the tables of finished runs, whatever is missing."""

    tables: Annotated[TablesConfig, tyro.conf.arg(name="")]
    out: Path | None = None
    """File to write; default: standard output."""


@dataclass(frozen=True)
class PushCommand:
    """Upload a finished run's student to the Hugging Face hub, with a model card.

    scmd.load("hub:OWNER/NAME") loads it.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a finished run."""
    repo: tyro.conf.Positional[str]
    """OWNER/NAME."""
    private: bool = False
    """Make it private, where it is new."""
    dry_run: Path | None = None
    """Write what would be uploaded into this folder, and upload nothing."""


@dataclass(frozen=True)
class ReportCommand:
    """Write one HTML page about finished runs: results, errors, calibration, selections."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of scmd train, compared where there are several; or one of scmd protocol, whose
    tables are shown."""
    out: Path
    """Folder for index.html and, with a teacher, the lists of labels to review."""


@dataclass(frozen=True)
class DemoCommand:
    """Run ERM, KD and SCMD on handwritten digits that come with the package, and compare them."""

    demo: Annotated[DemoConfig, tyro.conf.arg(name="")] = field(default_factory=DemoConfig)


@dataclass(frozen=True)
class Sources:
    """The flags that the other flags' defaults depend on."""

    config: Path | None = None
    preset: str = "default"
    method: str | None = None
    out: Path | None = None
    resume: bool = False
