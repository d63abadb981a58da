"""The benchmark's tables, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scmd.bench.compare import Timings, mixed, ratio
from scmd.bench.turns import Turn
from scmd.bench.work import Work
from scmd.errors import ScmdError
from scmd.files import writing_aside

BEGIN, END = "<!-- measured by scmd bench -->", "<!-- end of what scmd bench measured -->"
REFERENCE, SAME, OURS = "reference", "reference, same allocator", "ours"


def comparison_table(work: Work, domains: int, times: Mapping[str, Timings]) -> str:
    """Images per second of the reference in every phase, and how much faster ours is."""
    batch = domains * work.batch_per_domain
    phases: dict[str, Callable[[Timings], list[float]]] = {
        "step that selects": lambda t: t.select,
        "step on the whole batch": lambda t: t.whole,
        "mean step of a run": lambda t: mixed(work, t),
        "the same, waiting for the loader": lambda t: t.both,
    }
    others = [name for name in times if name not in (REFERENCE, SAME, OURS)]
    head = ["", "reference, images/s", "ours, images/s", "ours is faster by"]
    head += ["with the same allocator"] * (SAME in times)
    head += [f"{name}, is faster by" for name in others]
    rows = []
    for label, seconds in phases.items():
        slow, fast = seconds(times[REFERENCE]), seconds(times[OURS])
        if not slow:
            continue
        row = [label, *(f"{batch / statistics.median(side):.3g}" for side in (slow, fast))]
        row.append(str(ratio(slow, fast)))
        if SAME in times:
            row.append(str(ratio(seconds(times[SAME]), fast)))
        row += [str(ratio(slow, seconds(times[name]))) for name in others]
        rows.append(row)
    memory = {name: f"{statistics.median(t.peak_megabytes):,.0f}" for name, t in times.items()}
    row = ["peak memory, MB", memory[REFERENCE], memory[OURS], ""]
    if SAME in times:
        row.append(f"(reference: {memory[SAME]})")
    rows.append([*row, *(f"({memory[name]})" for name in others)])
    return table(head, rows)


def loader_table(images: int, turns: Mapping[str, Sequence[Turn]]) -> str:
    """Images per second of wall and of CPU time that either side's loader gives."""
    rows = []
    for place, label in enumerate(("by the clock", "per CPU second")):
        slow, fast = ([turn[place] for turn in turns[name]] for name in (REFERENCE, OURS))
        rates = (f"{images / statistics.median(seconds):.0f}" for seconds in (slow, fast))
        rows.append([label, *rates, str(ratio(slow, fast))])
    return table(["images/s", REFERENCE, OURS, "ours is faster by"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table; short rows are filled up."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[*row, *[""] * (len(head) - len(row))] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def surroundings(file: Path) -> tuple[str, str]:
    """What stands before and after the measured part of a page, which may not be there yet.

    Raises:
        ScmdError: The page is there and lacks the marks, or cannot be read.
    """
    if not file.exists():
        return "# Benchmarks\n\n", "\n"
    try:
        page = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScmdError(f"{file} cannot be read as a page: {error}. Choose another") from error
    if BEGIN not in page or END not in page:
        raise ScmdError(
            f"{file} has no lines {BEGIN} and {END} to write between. Add them, or choose "
            "another --out"
        )
    return page.split(BEGIN)[0], page.split(END)[1]


def write_between(file: Path, text: str) -> None:
    """Put the measured part into a page, in the place of what was measured before.

    Args:
        file: A page with the two marks, or one that is not there yet.
        text: What stands between them.

    Raises:
        ScmdError: The page is there and lacks the marks, or cannot be written.
    """
    before, after = surroundings(file)
    with writing_aside(file) as page:
        page.write(f"{before}{BEGIN}\n\n{text}\n{END}{after}".encode())
