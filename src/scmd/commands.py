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
    soup: bool = False
    """In the end, average the weights of each method's trials, and measure that, too."""


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
    from scmd.deploy.outputs import write_predictions
    from scmd.deploy.predict import predict_files
    from scmd.deploy.promptable import load_promptable, parse_classes, save_classes
    from scmd.progress import counting

    classes = None if command.classes is None else parse_classes(command.classes)
    if command.save_classes is not None:
        if classes is None:
            raise ScmdError('no classes to save. Give --classes "..." with --save-classes')
        file = save_classes(
            command.run, command.save_classes, load_promptable(command.run, classes)
        )
        print(f"{file}: saved", file=sys.stderr)
        if not command.images:
            return 0
    if not command.images:
        raise ScmdError("no image given. Name image files, or folders of them")
    _check_writable(command.out)
    console = Console(stderr=True)
    mixed = command.out is None and sys.stdout.isatty()  # a bar among the lines would tear them
    console.quiet = mixed
    with counting(console, "classifying") as progress:
        predictions = predict_files(
            command.run,
            command.images,
            command.top,
            command.workers,
            command.calibration,
            command.min_confidence,
            classes,
            progress,
        )
        return 0 if write_predictions(predictions, command.format, command.out) else 1


def export(command: ExportCommand) -> int:
    """``scmd export``."""
    from scmd.deploy.export import export_run, print_export

    with Console(stderr=True).status("exporting and checking"):
        about = export_run(
            command.run, command.out, command.to, command.int8, command.benchmark, command.data
        )
    print_export(about, command.out, Console())
    return 0


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
    from scmd.cache import Shared
    from scmd.protocol.dry_run import print_plan
    from scmd.protocol.plan import plan
    from scmd.protocol.runner import run_plan
    from scmd.protocol.soups import make_soups

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
        if command.soup:
            for line in make_soups(out, Shared()):
                print(line, file=sys.stderr)
        print(tables_of(TablesConfig((out,))), end="")
    return 1 if broken else 0


def tables(command: TablesCommand) -> int:
    """``scmd tables``."""
    from scmd.files import writing_aside

    _check_writable(command.out)
    text = tables_of(command.tables)
    if command.out is None:
        print(text, end="")
    else:
        with writing_aside(command.out) as file:
            file.write(text.encode())
    return 0


def push(command: PushCommand) -> int:
    """``scmd push``."""
    from scmd.deploy import hub

    if command.dry_run is None:
        print(hub.push(command.run, command.repo, command.private))
        return 0
    hub.check_repo(command.repo)
    out = command.dry_run
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ScmdError(f"{out} is there already and not empty. Choose another --dry-run")
    out.mkdir(parents=True, exist_ok=True)
    for file in hub.stage(command.run, command.repo, out):
        print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


def report(command: ReportCommand) -> int:
    """``scmd report``."""
    from scmd.protocol.present import tables_for_page
    from scmd.protocol.runner import PLAN
    from scmd.report.gather import gather
    from scmd.report.page import write_page

    if not command.runs:
        raise ScmdError("no run given. Name folders that scmd train or scmd protocol wrote")
    comparisons = [run for run in command.runs if (run / PLAN).exists()]
    tables = tables_for_page(TablesConfig(tuple(comparisons))) if comparisons else []
    try:
        command.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScmdError(
            f"{command.out} cannot be made: {error.strerror}. Choose another --out"
        ) from error
    console = Console(stderr=True)
    runs = [run for run in command.runs if run not in comparisons]
    pages = [gather(run, command.out, console) for run in runs]
    names = ", ".join(run.resolve().name for run in command.runs)
    write_page(command.out / "index.html", names, pages, tables)
    print(command.out / "index.html")
    return 0


_COMMANDS = {
    "demo": (DemoCommand, demo),
    "train": (TrainCommand, train),
    "protocol": (ProtocolCommand, protocol),
    "tables": (TablesCommand, tables),
    "report": (ReportCommand, report),
    "push": (PushCommand, push),
    "evaluate": (EvaluateCommand, evaluate),
    "predict": (PredictCommand, predict),
    "export": (ExportCommand, export),
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
