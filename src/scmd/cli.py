"""The command line: names of commands to the functions in ``scmd.commands``."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from scmd.errors import ScmdError, ScmdWarning, Stopped, printable
from scmd.redact import redacted
from scmd.stopping import sigterm_as_exit

COMMANDS = {
    "demo": "ERM, KD and SCMD on embedded handwritten digits, in minutes.",
    "train": "Train a student on a folder of domains.",
    "protocol": "Hold out every domain in turn, and compare methods.",
    "tables": "Tables of finished runs: text, Markdown, LaTeX or CSV.",
    "report": "One HTML page about finished runs, to look at and to show.",
    "push": "Upload a trained student to the Hugging Face hub.",
    "evaluate": "Measure a trained student on a data set.",
    "predict": "Classify images with a trained student.",
    "export": "Write a trained student for use elsewhere: ONNX, int8, torch.export.",
    "bench": "Time training beside a step as the released code computes it.",
    "teacher fit": "Fit a teacher of one's own to labelled images.",
    "teacher eval": "Zero-shot accuracy of a teacher, per domain and class.",
    "data digits": "Write the embedded data set: handwritten digits in four styles.",
    "data halves": "Halve a data set: one half for a teacher, one for its students.",
    "data get": "Fetch a benchmark set: PACS, VLCS, Office-Home, DomainNet and more.",
    "data import": "Take a copy of a benchmark set that is there already, and check it.",
    "data check": "Look for bad, duplicate and misplaced images.",
}

_HELP = f"""\
usage: scmd COMMAND [OPTIONS]

Train small image classifiers that hold up on domains they never saw.

commands:
{chr(10).join(f"  {name:<14}{text}" for name, text in COMMANDS.items())}

scmd COMMAND --help says more; scmd --version prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0; 1 where ``data check`` found errors or ``predict`` could classify no
        image; 2 on bad input; 128 and the signal's number if it was asked to stop.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal has no letter for
            stream.reconfigure(errors="backslashreplace")
    try:
        with sigterm_as_exit():
            return _run(argv)
    except ScmdError as error:
        print(f"error: {printable(redacted(str(error)))}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has left; nor can it be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # of the file system: full, gone, not allowed
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        what = error.strerror or str(error) or type(error).__name__
        print(f"error: {printable(redacted(f'{where}{what}'))}", file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"scmd {version('scmd')}")
        return 0
    name = next((n for n in COMMANDS if argv[: n.count(" ") + 1] == n.split()), None)
    if name is None:
        given = " ".join(
            argv[:2] if any(n.startswith(f"{argv[0]} ") for n in COMMANDS) else argv[:1]
        )
        raise ScmdError(f"there is no command {given!r}. Choose from {', '.join(COMMANDS)}")
    # Imported here, so that --help does not wait for torch.
    from scmd import commands

    return commands.run(name, argv[name.count(" ") + 1 :])


def _show_warning(message: Any, category: type[Warning], *rest: Any) -> None:
    if issubclass(category, ScmdWarning):
        print(f"warning: {printable(redacted(str(message)))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
