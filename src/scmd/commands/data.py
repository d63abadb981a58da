"""The commands on data: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from scmd.arguments import (
    DataCheckCommand,
    DataDigitsCommand,
    DataGetCommand,
    DataHalvesCommand,
    DataImportCommand,
)


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
