"""The bytes of a file over HTTP: resumed where they broke off, tried again, never mixed."""

from __future__ import annotations

import errno
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import httpx2

from scmd.data.benchmarks.addresses import Address, SourceError, behind_the_page, title_of
from scmd.errors import ScmdError
from scmd.files import write_json

Progress = Callable[[int, int], None]
_LEAST_RATE = 1024
"""Bytes per second; a connection that is slower for as long as the timeout is broken off."""
_WORTH_GOING_ON = 2**20
"""After so many new bytes a broken connection does not count as a failure."""
_LARGEST_PAGE = 2**20
_SIZE = "[0-9]{1,18}"


@dataclass(frozen=True)
class Patience:
    """How long a source is tried."""

    tries: int = 5
    """Failures in a row before the next source has its turn."""
    unreachable: int = 2
    """The same, where no connection was made."""
    pause: float = 1.0
    """Seconds before the second try; doubled each time."""
    timeout: float = 30.0
    """Seconds without an answer, or without bytes to speak of."""


class _Broken(Exception):  # noqa: N818 - it is tried again
    """A try failed; another may not."""


class _Unreachable(_Broken):
    """No connection was made."""


def drop(part: Path) -> None:
    """Remove a file that was being fetched, and what is remembered about it."""
    part.unlink(missing_ok=True)
    _memory(part).unlink(missing_ok=True)


def _memory(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def complete(
    address: Address, part: Path, progress: Progress, say: Callable[[str], None], patience: Patience
) -> None:
    """Have all bytes of a file in ``part``, going on with those that are there.

    Args:
        address: Where the file is.
        part: What it is fetched to; a file beside it remembers of which file it is the beginning.
        progress: Called with the bytes that are there and the bytes of all (0 where unknown).
        say: Called with lines for people.
        patience: How long it is tried.

    Raises:
        SourceError: The source does not have it; what came of it stays.
        ScmdError: The disk is full.
    """
    failures, most = 0, 0
    # Nothing but http and https is followed: httpx2 knows no other.
    with httpx2.Client(timeout=patience.timeout, follow_redirects=True) as client:
        while True:
            try:
                return _transfer(client, address, part, progress, patience)
            except _Broken as error:
                there = part.stat().st_size if part.exists() else 0
                if there >= most + _WORTH_GOING_ON:
                    failures = 0
                most = max(most, there)
                failures += 1
                unreachable = isinstance(error, _Unreachable)
                if failures >= (patience.unreachable if unreachable else patience.tries):
                    raise SourceError(str(error)) from error
                pause = patience.pause * 2 ** (failures - 1)
                say(f"  {error}; once more in {pause:g} s")
                time.sleep(pause)


def _transfer(
    client: httpx2.Client, address: Address, part: Path, progress: Progress, patience: Patience
) -> None:
    url, have, known = address.url, 0, _remembered(part, address)
    headers = {**address.headers, "Accept-Encoding": "identity"}
    if known is not None and known.have == known.size:
        return  # killed before it was checked
    if known is not None and known.validator:
        have = known.have
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    with _answer(client, url, headers, address) as response:
        if address.confirms and response.status_code == 200 and _is_page(response):
            url = behind_the_page(_read_page(response), str(response.url))
        else:
            return _receive(response, address, part, have, progress, patience)
    with _answer(client, url, headers, address) as response:
        _receive(response, address, part, have, progress, patience)


@contextmanager
def _answer(
    client: httpx2.Client, url: str, headers: dict[str, str], address: Address
) -> Iterator[httpx2.Response]:
    """What the server says, and whatever goes wrong while it is read as one of two errors."""
    try:
        with client.stream("GET", url, headers=headers) as response:
            if response.url.scheme == "http" and address.url.startswith("https:"):
                raise SourceError(f"leads to {response.url}, which is not encrypted")
            yield response
    except httpx2.UnsupportedProtocol as error:
        raise SourceError(f"leads where it must not: {error}") from error
    except (httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
        raise SourceError(f"leads nowhere: {error}") from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise _Unreachable(f"cannot be reached ({error})") from error
    except httpx2.TimeoutException as error:
        raise _Broken("stopped answering") from error
    except httpx2.DecodingError as error:
        raise SourceError(f"answers what cannot be read: {error}") from error
    except httpx2.TransportError as error:
        raise _Broken(f"the connection broke ({error})") from error


def _receive(
    response: httpx2.Response,
    address: Address,
    part: Path,
    have: int,
    progress: Progress,
    patience: Patience,
) -> None:
    status = f"answers {response.status_code} {response.reason_phrase}".strip()
    if response.status_code in (408, 429) or response.status_code >= 500:
        raise _Broken(status)
    if response.status_code == 416:
        drop(part)
        raise _Broken("has another file than before")
    if response.status_code not in (200, 206):
        raise SourceError(status)
    if _is_page(response):
        title = title_of(_read_page(response))
        raise SourceError(f"answers with a web page{f' ({title})' if title else ''}, not the file")
    known, total = _remembered(part, address), _announced(response, have)
    validator = _validator(response)
    if response.status_code == 200:
        have = 0
    elif known is None or total is None or _another(known, validator, total):
        drop(part)
        raise _Broken("sends a part that was not asked for, or of another file")
    else:
        validator = known.validator  # a rest need not say it again
    if address.size is not None and total is not None and total != address.size:
        drop(part)
        raise SourceError(f"has {total:,} bytes, where {address.size:,} are published")
    total = address.size if total is None else total
    _check_room(part, have, total)
    with _writing(part, have) as file:
        _remember(part, address, validator, total)
        _pour(response, file, have, total, progress, patience)
    if total is None:  # it ended well, so that all of it is there
        _remember(part, address, validator, part.stat().st_size)


def _pour(
    response: httpx2.Response,
    file: BinaryIO,
    have: int,
    total: int | None,
    progress: Progress,
    patience: Patience,
) -> None:
    since, received = time.monotonic(), 0
    for piece in response.iter_raw():
        have += len(piece)
        received += len(piece)
        if total is not None and have > total:
            raise SourceError(f"sends more than the {total:,} bytes that were announced")
        file.write(piece)
        file.flush()  # so that whoever is killed has lost nothing
        progress(have, total or 0)
        elapsed = time.monotonic() - since
        if elapsed >= patience.timeout:
            if received < _LEAST_RATE * elapsed:
                raise _Broken("sends next to nothing")
            since, received = time.monotonic(), 0
    if total is not None and have < total:
        raise _Broken(f"the connection ended after {have:,} of {total:,} bytes")


def _announced(response: httpx2.Response, have: int) -> int | None:
    """The size of the whole file; None where it is not said, or not of the rest after ``have``."""
    name, form = "Content-Length", rf"({_SIZE})"
    if response.status_code == 206:
        name, form = "Content-Range", rf"bytes {have}-[0-9]*/({_SIZE})"
    said = re.fullmatch(form, response.headers.get(name, ""))
    return int(said[1]) if said else None


def _is_page(response: httpx2.Response) -> bool:
    return response.headers.get("Content-Type", "").lower().startswith("text/html")


def _read_page(response: httpx2.Response) -> str:
    page = b""
    for piece in response.iter_bytes():
        page += piece
        if len(page) > _LARGEST_PAGE:
            break
    return page[:_LARGEST_PAGE].decode(errors="replace")


def _check_room(part: Path, have: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise ScmdError(
            f"{part.parent} has {free / 1e9:.1f} GB free, and {total / 1e9:.1f} GB are to be "
            "fetched. Make room, or choose another --out"
        )


@contextmanager
def _writing(part: Path, have: int) -> Iterator[BinaryIO]:
    try:
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            yield file
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or error
        raise ScmdError(
            f"{part} cannot be written: {reason}. What is there stays; run the command again "
            "to go on"
        ) from error


def _remember(part: Path, address: Address, validator: str, total: int | None) -> None:
    """By what it can be seen later that the file is still the same."""
    write_json(_memory(part), {"url": address.url, "validator": validator, "size": total})


def _validator(response: httpx2.Response) -> str:
    """What shows that a file is still the same; empty where nothing is said, or in no ASCII."""
    etag = response.headers.get("ETag", "")
    said = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    return said if said.isascii() else ""


def _another(known: _Known, validator: str, total: int) -> bool:
    """Whether a rest is of another file than what is there: not every server heeds If-Range."""
    return known.size not in (None, total) or validator not in ("", known.validator)


class _Known(NamedTuple):
    """How much of a file is there, what shows that it is still the same, and its whole size."""

    have: int
    validator: str
    size: int | None


def _remembered(part: Path, address: Address) -> _Known | None:
    """What is there of the file at an address; None: nothing that can be gone on with."""
    try:
        known = json.loads(_memory(part).read_text(encoding="utf-8"))
        found = _Known(part.stat().st_size, str(known["validator"]), known["size"])
        if found.have and known["url"] == address.url:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
