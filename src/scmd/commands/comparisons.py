"""The commands on many runs: compare them, and show what came of them."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from scmd.arguments import ProtocolCommand, ReportCommand, TablesCommand
from scmd.commands.checks import check_writable
from scmd.errors import ScmdError
from scmd.files import make_folder
from scmd.protocol.present import TablesConfig, tables_of


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

    check_writable(command.out)
    text = tables_of(command.tables)
    if command.out is None:
        print(text, end="")
    else:
        with writing_aside(command.out) as file:
            file.write(text.encode())
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
    make_folder(command.out, "--out")
    console = Console(stderr=True)
    pages = [gather(run, command.out, console) for run in runs]
    names = ", ".join(run.resolve().name for run in command.runs)
    write_page(command.out / PAGE, names, pages, tables)
    print(command.out / PAGE)
    return 0
