"""``scmd data get``: a benchmark set from the internet, as ``domain/class/image``."""

from __future__ import annotations

import shutil
from pathlib import Path

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.build import (
    ARRANGED,
    DifferentError,
    Reporting,
    arrange,
    check_free,
    put_in_place,
    sweep,
    workplace,
    workshop,
)
from scmd.data.benchmarks.counts import Comparison, compare
from scmd.data.benchmarks.download import NotHad, fetch, is_published
from scmd.data.benchmarks.entries import Benchmark, RemoteFile, Way
from scmd.data.benchmarks.transfer import Patience
from scmd.data.benchmarks.unpack import check_form, unpack
from scmd.errors import ScmdError


def get(
    benchmark: Benchmark,
    out: Path,
    reporting: Reporting,
    allow_differences: bool = False,
    keep_archives: bool = False,
    patience: Patience | None = None,
) -> Comparison:
    """Fetch a data set, unpack it, arrange it, compare its counts, and put it in its place.

    All that is not finished lies in a folder beside ``out``. Killed at any moment, it goes on from
    there when it is called again.

    Args:
        benchmark: What to get.
        out: The folder to make.
        reporting: How people are told.
        allow_differences: Take it even if its counts are not the published ones.
        keep_archives: Leave what was downloaded beside ``out``.
        patience: How long a source is tried.

    Raises:
        ScmdError: It cannot be had, is not what was published, or something is in its place.
    """
    what = f"getting-{benchmark.name}"
    if out.is_dir() and any(out.iterdir()):
        found = _already(benchmark, out, allow_differences)
        # Killed between the last rename and the sweeping. Archives that are kept are alone there.
        if any(workplace(out, what).glob("*/unpacked")):
            with workshop(out, what, reporting.say) as work:
                sweep(work)
        return found
    check_free(out, "Choose another --out")
    with workshop(out, what, reporting.say) as work:
        if out.is_dir() and any(out.iterdir()):  # another process was faster
            return _already(benchmark, out, allow_differences)
        found = _by_some_way(benchmark, out, work, reporting, allow_differences, patience)
        if keep_archives:
            for folder in work.glob("*/unpacked"):
                shutil.rmtree(folder)
            reporting.say(f"what was downloaded is in {work}")
        else:
            sweep(work)
    return found


def _already(benchmark: Benchmark, out: Path, allow_differences: bool) -> Comparison:
    try:
        found = compare(benchmark, out)
    except ScmdError as error:
        raise ScmdError(
            f"{out} is there already, and is not {benchmark.title}. Choose another --out"
        ) from error
    if found.differences and not allow_differences:
        raise ScmdError(
            f"{out} is there already, and is not {benchmark.title} as published: "
            f"{found.differences[0]}. Choose another --out, or remove it"
        )
    return found


def _by_some_way(
    benchmark: Benchmark,
    out: Path,
    work: Path,
    reporting: Reporting,
    allow_differences: bool,
    patience: Patience | None,
) -> Comparison:
    reasons: list[str] = []
    for number, way in enumerate(benchmark.ways, 1):
        folder = work / str(number)
        (folder / "unpacked").mkdir(parents=True, exist_ok=True)
        for place, other in enumerate(benchmark.ways, 1):
            _take_over({*way.files} & {*other.files}, work / str(place), folder)
        try:
            unpacked = _fetch_and_unpack(way, folder, reporting, patience)
            arranged = arrange(benchmark, unpacked, folder, "link or copy", reporting)
            return put_in_place(benchmark, arranged, out, allow_differences)
        except NotHad as error:
            reasons += error.reasons
        except DifferentError as error:
            raise ScmdError(
                f"{benchmark.title} was fetched, but is {error}. Pass --allow-differences to take "
                f"it as it is (nothing is fetched again), or get it by hand: {_by_hand(benchmark)}"
            ) from error
        except SourceError as error:
            reasons.append(f"{', '.join(file.name for file in way.files)}: {error}")
            shutil.rmtree(folder / "unpacked", ignore_errors=True)
            shutil.rmtree(folder / ARRANGED, ignore_errors=True)
            for file in way.files:  # else a wrong archive would be unpacked for ever
                path = folder / file.name
                if path.exists() and not is_published(file, path):
                    path.unlink()
    raise ScmdError(
        f"{benchmark.title} cannot be had, no source works ({'; '.join(reasons)}). Get it by hand: "
        f"{_by_hand(benchmark)}"
    )


def _by_hand(benchmark: Benchmark) -> str:
    return f"{benchmark.by_hand}, then run: scmd data import {benchmark.name} PATH"


def _take_over(files: set[RemoteFile], there: Path, folder: Path) -> None:
    """Move here what another way has of files, so that none is fetched or unpacked twice."""
    for file in files:
        for path in (*there.glob(f"{file.name}*"), *there.glob(f"unpacked/{file.name}")):
            here = folder / path.relative_to(there)
            if not here.exists():
                path.rename(here)


def _fetch_and_unpack(
    way: Way, folder: Path, reporting: Reporting, patience: Patience | None
) -> Path:
    for file in way.files:
        place = folder / "unpacked" / file.name

        def accept(path: Path, file: RemoteFile = file, place: Path = place) -> None:
            check_form(path, file.form)
            if file.form in ("zip", "tar"):
                shutil.rmtree(place, ignore_errors=True)  # killed before the archive had its name
                unpack(path, file, place, reporting.transferring)

        fetched = fetch(file, folder, accept, reporting.transferring, reporting.say, patience)
        if fetched is not None:
            published = "as published" if fetched.confirmed else "none is published; keep this one"
            reporting.say(f"{file.name}: SHA-256 {fetched.sha256} ({published})")
        elif file.form in ("zip", "tar") and not place.exists():
            unpack(folder / file.name, file, place, reporting.transferring)
    # Tables and lists are read where they were fetched to, beside what was unpacked.
    return folder
