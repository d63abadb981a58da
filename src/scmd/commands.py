"""What each command does: parse, call one function, print."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import tyro
from rich.console import Console
from rich.logging import RichHandler

from scmd.arguments import (
    BenchCommand,
    DataCheckCommand,
    DataDigitsCommand,
    DataGetCommand,
    DataHalvesCommand,
    DataImportCommand,
    DemoCommand,
    EvaluateCommand,
    ExportCommand,
    PredictCommand,
    ProtocolCommand,
    PushCommand,
    ReportCommand,
    Sources,
    TablesCommand,
    TeacherEvalCommand,
    TeacherFitCommand,
    TrainCommand,
)
from scmd.config import RunConfig, build_config
from scmd.errors import ScmdError
from scmd.limits import MOST_WORKERS, require_whole
from scmd.models.teacher import TeacherConfig
from scmd.parsing import parse
from scmd.protocol.present import TablesConfig, tables_of
from scmd.run_folder import CONFIG


def demo(command: DemoCommand) -> int:
    """``scmd demo``."""
    from scmd.demo import print_demo, run_demo

    console = Console()
    print_demo(run_demo(command.demo, console), command.demo, console)
    return 0


def train(command: TrainCommand) -> int:
    """``scmd train``."""
    from scmd.loop import train as run_training
    from scmd.summary import print_summary

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
    _check_workers(command.workers)
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

    _check_workers(command.workers)
    _check_writable(command.out)
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


def bench(command: BenchCommand) -> int:
    """``scmd bench``."""
    from scmd.bench.present import surroundings, write_between
    from scmd.bench.run import bench as measure

    _check_writable(command.out)
    if command.out is not None:
        surroundings(command.out)
    text = measure(command.bench, Console(stderr=True))
    if command.out is None:
        print(text)
    else:
        write_between(command.out, text)
        print(command.out)
    return 0


def teacher_eval(command: TeacherEvalCommand) -> int:
    """``scmd teacher eval``."""
    from scmd.data.folder import load_domains
    from scmd.deploy.evaluate import evaluate_teacher, print_results
    from scmd.files import write_json

    _check_writable(command.json)
    _check_workers(command.workers)
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
    said = f"{command.out}: a teacher in open_clip's format; card: teacher.json"
    console.print(said, markup=False)
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


def data_get(command: DataGetCommand) -> int:
    """``scmd data get``."""
    from scmd.data.benchmarks.catalogue import find
    from scmd.data.benchmarks.get import get
    from scmd.data.benchmarks.present import print_catalogue, print_found, reporting_to

    if not command.name:
        print_catalogue(Console())
        return 0
    benchmark = find(command.name)
    out = command.out or Path("data") / benchmark.title
    with reporting_to(Console(stderr=True)) as reporting:
        found = get(benchmark, out, reporting, command.allow_differences, command.keep_archives)
    print_found(benchmark, out, found, Console())
    return 0


def data_import(command: DataImportCommand) -> int:
    """``scmd data import``; exit status 1 where --check-only finds differences."""
    from scmd.data.benchmarks.catalogue import find
    from scmd.data.benchmarks.importing import check_copy, import_copy
    from scmd.data.benchmarks.present import print_found, reporting_to

    benchmark = find(command.name)
    if command.check_only:
        found = check_copy(benchmark, command.path)
        print_found(benchmark, command.path, found, Console())
        return 1 if found.differences else 0
    out = command.out or Path("data") / benchmark.title
    with reporting_to(Console(stderr=True)) as reporting:
        found = import_copy(
            benchmark, command.path, out, reporting, command.link, command.allow_differences
        )
    print_found(benchmark, out, found, Console())
    return 0


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
    from scmd.protocol.records import check_comparison_folder
    from scmd.protocol.runner import alone
    from scmd.protocol.soups import make_soups
    from scmd.protocol.spread import check_spread, run_spread

    check_spread(command.spread)
    runs = plan(command.protocol)
    name = Path(command.protocol.data).resolve().name.removesuffix(".csv")
    out = command.out or Path("runs") / f"protocol-{name}"
    if command.dry_run:
        print_plan(runs, out, Console())
        return 0
    check_comparison_folder(out)
    broken = run_spread(runs, out, command.spread, Console(stderr=True))
    for name, reason in broken:
        print(f"{name}: {reason}", file=sys.stderr)
    if len(broken) < len(runs):
        if command.soup:
            with alone(out):
                said = make_soups(out, Shared())
            for line in said:
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
    hub.check_run(command.run)
    out = command.dry_run
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ScmdError(f"{out} is there already and not empty. Choose another --dry-run")
    _make(out, "--dry-run")
    for file in hub.stage(command.run, command.repo, out):
        print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


def report(command: ReportCommand) -> int:
    """``scmd report``."""
    from scmd.protocol.present import tables_for_page
    from scmd.protocol.runner import PLAN
    from scmd.report.gather import check_run, gather
    from scmd.report.page import PAGE, check_page, write_page

    if not command.runs:
        raise ScmdError("no run given. Name folders that scmd train or scmd protocol wrote")
    comparisons = [run for run in command.runs if (run / PLAN).exists()]
    tables = tables_for_page(TablesConfig(tuple(comparisons))) if comparisons else []
    runs = [run for run in command.runs if run not in comparisons]
    for run in runs:
        check_run(run)
    check_page(command.out / PAGE)
    _make(command.out, "--out")
    console = Console(stderr=True)
    pages = [gather(run, command.out, console) for run in runs]
    names = ", ".join(run.resolve().name for run in command.runs)
    write_page(command.out / PAGE, names, pages, tables)
    print(command.out / PAGE)
    return 0


_COMMANDS = {
    "demo": (DemoCommand, demo),
    "train": (TrainCommand, train),
    "protocol": (ProtocolCommand, protocol),
    "tables": (TablesCommand, tables),
    "report": (ReportCommand, report),
    "push": (PushCommand, push),
    "bench": (BenchCommand, bench),
    "evaluate": (EvaluateCommand, evaluate),
    "predict": (PredictCommand, predict),
    "export": (ExportCommand, export),
    "teacher eval": (TeacherEvalCommand, teacher_eval),
    "teacher fit": (TeacherFitCommand, teacher_fit),
    "data digits": (DataDigitsCommand, data_digits),
    "data halves": (DataHalvesCommand, data_halves),
    "data get": (DataGetCommand, data_get),
    "data import": (DataImportCommand, data_import),
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
    return function(parse(arguments, name, argv, default=default, config=markers))


def _train_default(argv: list[str]) -> TrainCommand:
    """A preset, a file and a method decide what the other flags start from."""
    sources, _ = parse(Sources, "train", argv, return_unknown_args=True, add_help=False)
    file = sources.config
    if file is None and sources.resume and sources.out and (sources.out / CONFIG).exists():
        file = sources.out / CONFIG
    config = build_config(sources.preset, file, sources.method)
    return TrainCommand(config, config=sources.config, preset=sources.preset)


def _make(folder: Path, flag: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScmdError(
            f"{folder} cannot be made: {error.strerror}. Choose another {flag}"
        ) from error


def _check_writable(file: Path | None) -> None:
    """Before the work, not after it."""
    if file is None:
        return
    if not file.parent.is_dir():
        raise ScmdError(f"{file} cannot be written: there is no folder {file.parent}. Make it")
    if file.is_dir():
        raise ScmdError(f"{file} cannot be written: it is a folder. Name a file in it")
    if not os.access(file.parent, os.W_OK):
        raise ScmdError(
            f"{file} cannot be written: {file.parent} is not for you to write to. Choose another"
        )


def _check_workers(workers: int) -> None:
    require_whole("workers", workers, 0, MOST_WORKERS)


def _default_folder(config: RunConfig) -> Path:
    data = Path(config.data.path).resolve()
    parts = (
        data.name.removesuffix(".csv"),
        config.data.target or "all",
        config.method,
        f"seed{config.training.seed}",
    )
    return Path("runs") / "-".join(parts)
