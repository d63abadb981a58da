"""What is said about a run while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is counted; yields what is to be called with (done, of)."""
    columns = (TextColumn(what), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,  # or what is written to a pipe would come out at the terminal
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


@contextmanager
def fetching(
    console: Console,
) -> Iterator[tuple[Callable[[int, int], None], Callable[[int, int], None]]]:
    """A bar for what is fetched and arranged; yields two functions of (done, of), for bytes and
    for images; ``of`` is 0 where it is unknown."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
    ) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, of: int, text: str) -> None:
            bar.update(task, completed=done, total=of or None, description=text)

        def of_bytes(done: int, of: int) -> None:
            show(done, of, f"{done / 1e6:,.1f}{f' of {of / 1e6:,.1f}' if of else ''} MB")

        def of_images(done: int, of: int) -> None:
            show(done, of, f"{done:,}{f' of {of:,}' if of else ''} images")

        yield of_bytes, of_images


class TrainingProgress:
    """A progress bar with loss parts, holdout accuracy, images per second and time left."""

    def __init__(self, console: Console, start: int, steps: int, enabled: bool) -> None:
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[rate]} img/s,"),
            TimeRemainingColumn(compact=True),
            TextColumn("left; {task.description}"),
            console=console,
            disable=not enabled,
        )
        self._console = console
        self._task = self._bar.add_task("", total=steps, completed=start, rate="")
        self._losses = self._score = ""
        self._images, self._began = 0, time.perf_counter()

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def step(self, images: int) -> None:
        """One more step, over so many images."""
        self._images += images
        rate = self._images / max(time.perf_counter() - self._began, 1e-9)
        self._bar.update(self._task, advance=1, rate=f"{rate:.0f}")

    def losses(self, parts: Mapping[str, float]) -> None:
        """Show the loss and its parts."""
        self._losses = " ".join(f"{name} {value:.3g}" for name, value in parts.items())
        self._describe()

    def score(self, step: int, accuracy: float) -> None:
        """Show the holdout accuracy; in a line of its own where there is no terminal for a bar."""
        self._score = f"holdout {accuracy:.3f}"
        self._describe()
        if not self._console.is_terminal and not self._bar.disable:
            self._console.print(f"step {step}: {self._losses} {self._score}", markup=False)

    def _describe(self) -> None:
        self._bar.update(self._task, description=f"{self._losses} {self._score}".strip())
