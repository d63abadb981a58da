"""What each command does: parse, call one function, print."""

from __future__ import annotations

import logging

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
from scmd.commands import comparisons, data, models
from scmd.config import build_config
from scmd.parsing import parse
from scmd.run_folder import CONFIG

_COMMANDS = {
    "demo": (DemoCommand, models.demo),
    "train": (TrainCommand, models.train),
    "protocol": (ProtocolCommand, comparisons.protocol),
    "tables": (TablesCommand, comparisons.tables),
    "report": (ReportCommand, comparisons.report),
    "push": (PushCommand, models.push),
    "bench": (BenchCommand, models.bench),
    "evaluate": (EvaluateCommand, models.evaluate),
    "predict": (PredictCommand, models.predict),
    "export": (ExportCommand, models.export),
    "teacher eval": (TeacherEvalCommand, models.teacher_eval),
    "teacher fit": (TeacherFitCommand, models.teacher_fit),
    "data digits": (DataDigitsCommand, data.data_digits),
    "data halves": (DataHalvesCommand, data.data_halves),
    "data get": (DataGetCommand, data.data_get),
    "data import": (DataImportCommand, data.data_import),
    "data check": (DataCheckCommand, data.data_check),
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
