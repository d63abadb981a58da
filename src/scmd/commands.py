"""What each command does: parse, call one function, print."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.logging import RichHandler

from scmd.config import PRESETS, RunConfig, build_config
from scmd.data.digits import DOMAINS
from scmd.data.folder import ClassPolicy
from scmd.demo import DemoConfig
from scmd.errors import ScmdError
from scmd.models.fit_config import FitConfig
from scmd.models.prompts import PromptConfig
from scmd.models.teacher import TeacherConfig
from scmd.protocol.plan import ProtocolConfig
from scmd.protocol.present import TablesConfig, tables_of
from scmd.run_folder import CONFIG


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
    """Classify images with a trained student."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    format: Literal["csv", "jsonl"] = "csv"
    """csv: a line per image and rank. jsonl: a line per image."""
    top: int = 1
    """How many classes to give for each image."""
    out: Path | None = None
    """File to write; default: standard output."""
    workers: int = 2
    """Processes that decode images."""


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


@dataclass(frozen=True)
class TablesCommand:
    """Print the tables of finished runs, whatever is missing."""

    tables: Annotated[TablesConfig, tyro.conf.arg(name="")]
    out: Path | None = None
    """File to write; default: standard output."""


@dataclass(frozen=True)
class DemoCommand:
    """Run ERM, KD and SCMD on handwritten digits that come with the package, and compare them."""

    demo: Annotated[DemoConfig, tyro.conf.arg(name="")] = field(default_factory=DemoConfig)


@dataclass(frozen=True)
class _Sources:
    """The flags that the other flags' defaults depend on."""

    config: Path | None = None
    preset: str = "default"
    method: str | None = None
    out: Path | None = None
    resume: bool = False


def demo(command: DemoCommand) -> int:
    """``scmd demo``."""
    from scmd.demo import print_demo, run_demo

    console = Console()
    print_demo(run_demo(command.demo, console), command.demo, console)
    return 0


def train(command: TrainCommand) -> int:
    """``scmd train``."""
    from scmd.summary import print_summary
    from scmd.train import train as run_training

    out = command.out or _default_folder(command.run)
    console = Console(stderr=True)
    summary = run_training(command.run, out, command.resume, console)
    if summary:  # empty in all processes but the first
        print_summary(summary, out, Console())
    return 0


def evaluate(command: EvaluateCommand) -> int:
    """``scmd evaluate``."""
    from scmd.deploy.evaluate import evaluate_run, print_results
    from scmd.files import write_json

    _check_writable(command.json)
    results = evaluate_run(command.run, command.data, command.workers)
    print_results(results, Console())
    if command.json:
        write_json(command.json, results)
    return 0


def predict(command: PredictCommand) -> int:
    """``scmd predict``."""
    from scmd.deploy.predict import predict_files, write_predictions

    if not command.images:
        raise ScmdError("no image given. Name image files, or folders of them")
    if command.top < 1:
        raise ScmdError(f"--top {command.top}: give a whole number from 1")
    predictions = predict_files(command.run, command.images, command.top, command.workers)
    return 0 if write_predictions(predictions, command.format, command.out) else 1


def teacher_eval(command: TeacherEvalCommand) -> int:
    """``scmd teacher eval``."""
    from scmd.data.folder import load_domains
    from scmd.deploy.evaluate import evaluate_teacher, print_results
    from scmd.files import write_json

    _check_writable(command.json)
    config = TeacherConfig(command.teacher, command.prompts)
    data = load_domains(command.data, command.classes, one_is_enough=True)
    results = evaluate_teacher(config, data, command.workers)
    print_results(results, Console())
    if command.json:
        write_json(command.json, results)
    return 0


def teacher_fit(command: TeacherFitCommand) -> int:
    """``scmd teacher fit``."""
    from scmd.fit import fit_teacher

    card = fit_teacher(command.fit, command.out, command.resume, Console(stderr=True))
    console = Console()
    for domain, result in card["zero_shot_on_held_out_images"].items():
        low, high = result["interval"]
        console.print(
            f"{domain}: zero-shot {result['accuracy']:.3f} ({low:.3f} – {high:.3f}) on "
            f"{result['n']:,} held-out images"
        )
    console.print(f"[bold]{command.out}[/]: a teacher in open_clip's format; card: teacher.json")
    return 0


def data_digits(command: DataDigitsCommand) -> int:
    """``scmd data digits``."""
    from scmd.data.digit_styles import write_digits

    write_digits(command.out, command.styles)
    print(f"{command.out}: {', '.join(command.styles)}")
    return 0


def data_check(command: DataCheckCommand) -> int:
    """``scmd data check``."""
    from scmd.data.check import check_images, print_report
    from scmd.data.folder import load_domains
    from scmd.progress import counting

    data = load_domains(command.data, command.classes)
    with counting(Console(stderr=True), "decoding") as progress:
        report = check_images(data, progress)
    print_report(report, Console())
    return 1 if report.errors else 0


def data_halves(command: DataHalvesCommand) -> int:
    """``scmd data halves``."""
    from scmd.data.folder import load_domains
    from scmd.data.halves import write_halves
    from scmd.progress import counting

    data = load_domains(command.data, command.classes, one_is_enough=True)
    with counting(Console(stderr=True), "comparing") as progress:
        manifests = write_halves(data, command.out, command.seed, progress)
    for manifest in manifests:
        half = load_domains(manifest, "union", one_is_enough=True)
        print(f"{manifest}: {len(half):,} images of {len(half.domains)} domains")
    return 0


def protocol(command: ProtocolCommand) -> int:
    """``scmd protocol``; exit status 1 where a run broke."""
    from scmd.protocol.dry_run import print_plan
    from scmd.protocol.plan import plan
    from scmd.protocol.runner import run_plan

    runs = plan(command.protocol)
    name = Path(command.protocol.data).resolve().name.removesuffix(".csv")
    out = command.out or Path("runs") / f"protocol-{name}"
    if command.dry_run:
        print_plan(runs, out, Console())
        return 0
    broken = run_plan(runs, out, Console(stderr=True))
    for name, reason in broken:
        print(f"{name}: {reason}", file=sys.stderr)
    if len(broken) < len(runs):
        print(tables_of(TablesConfig((out,))))
    return 1 if broken else 0


def tables(command: TablesCommand) -> int:
    """``scmd tables``."""
    from scmd.files import writing_aside

    _check_writable(command.out)
    text = tables_of(command.tables)
    if command.out is None:
        print(text)
    else:
        with writing_aside(command.out) as file:
            file.write(text.encode())
    return 0


_COMMANDS = {
    "demo": (DemoCommand, demo),
    "train": (TrainCommand, train),
    "protocol": (ProtocolCommand, protocol),
    "tables": (TablesCommand, tables),
    "evaluate": (EvaluateCommand, evaluate),
    "predict": (PredictCommand, predict),
    "teacher eval": (TeacherEvalCommand, teacher_eval),
    "teacher fit": (TeacherFitCommand, teacher_fit),
    "data digits": (DataDigitsCommand, data_digits),
    "data halves": (DataHalvesCommand, data_halves),
    "data check": (DataCheckCommand, data_check),
}


def run(name: str, argv: list[str]) -> int:
    """Parse the arguments of a command and run it; returns the exit status."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_time=False, show_path=False)],
    )
    arguments, function = _COMMANDS[name]
    markers = (tyro.conf.PositionalMetavarFromFieldName,)
    default = _train_default(argv) if name == "train" else tyro.MISSING_NONPROP
    parsed = tyro.cli(arguments, prog=f"scmd {name}", args=argv, default=default, config=markers)
    return function(parsed)


def _train_default(argv: list[str]) -> TrainCommand:
    """A preset, a file and a method decide what the other flags start from."""
    sources, _ = tyro.cli(_Sources, args=argv, return_unknown_args=True, add_help=False)
    if sources.preset not in PRESETS:
        raise ScmdError(f"there is no preset {sources.preset!r}. Choose from {', '.join(PRESETS)}")
    file = sources.config
    if file is None and sources.resume and sources.out and (sources.out / CONFIG).exists():
        file = sources.out / CONFIG
    config = build_config(sources.preset, file, sources.method)
    return TrainCommand(config, config=sources.config, preset=sources.preset)


def _check_writable(file: Path | None) -> None:
    """Before the work, not after it."""
    if file is not None and not file.parent.is_dir():
        raise ScmdError(f"{file} cannot be written: there is no folder {file.parent}. Make it")


def _default_folder(config: RunConfig) -> Path:
    data = Path(config.data.path).resolve()
    parts = (
        data.name.removesuffix(".csv"),
        config.data.target or "all",
        config.method,
        f"seed{config.training.seed}",
    )
    return Path("runs") / "-".join(parts)
