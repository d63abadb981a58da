"""The commands on one model: train it, measure it, use it, hand it on."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from scmd.arguments import (
    BenchCommand,
    DemoCommand,
    EvaluateCommand,
    ExportCommand,
    PredictCommand,
    PushCommand,
    TeacherEvalCommand,
    TeacherFitCommand,
    TrainCommand,
)
from scmd.commands.checks import check_workers, check_writable
from scmd.config import RunConfig
from scmd.errors import ScmdError
from scmd.files import make_folder
from scmd.models.teacher import TeacherConfig


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

    out = command.out or default_folder(command.run)
    console = Console(stderr=True)
    summary = run_training(command.run, out, command.resume, console)
    if summary:  # empty in all processes but the first
        print_summary(summary, out, Console())
    return 0


def evaluate(command: EvaluateCommand) -> int:
    """``scmd evaluate``."""
    from scmd.deploy.evaluate import evaluate_run, print_results
    from scmd.files import write_json

    check_writable(command.json)
    check_workers(command.workers)
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

    check_workers(command.workers)
    check_writable(command.out)
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
    make_folder(out, "--dry-run")
    for file in hub.stage(command.run, command.repo, out):
        print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


def bench(command: BenchCommand) -> int:
    """``scmd bench``."""
    from scmd.bench.present import surroundings, write_between
    from scmd.bench.run import bench as measure

    check_writable(command.out)
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

    check_writable(command.json)
    check_workers(command.workers)
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
            f"{result['n']:,} held-out images, asked with {card['asked_with'][0]!r}",
            markup=False,
        )
    said = f"{command.out}: a teacher in open_clip's format; card: teacher.json"
    console.print(said, markup=False)
    return 0


def default_folder(config: RunConfig) -> Path:
    """Where a run goes that names no folder."""
    data = Path(config.data.path).resolve()
    parts = (
        data.name.removesuffix(".csv"),
        config.data.target or "all",
        config.method,
        f"seed{config.training.seed}",
    )
    return Path("runs") / "-".join(parts)
