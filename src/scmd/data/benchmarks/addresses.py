"""From a source of the catalogue to an address, and what is known about the file there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

from huggingface_hub import constants, get_hf_file_metadata
from huggingface_hub.utils import build_hf_headers

from scmd.data.benchmarks.entries import Source
from scmd.errors import ScmdError

_LONGEST = 400


class SourceError(ScmdError):
    """A source does not have the file, or has another one. The message is the reason alone: one
    line, of what can be printed, since servers and archives have their words in it."""

    def __init__(self, reason: str) -> None:
        plain = "".join(letter if letter.isprintable() else " " for letter in reason)
        super().__init__(" ".join(plain.split())[:_LONGEST])


@dataclass(frozen=True)
class Address:
    """Where a file is and what it has to be."""

    url: str
    size: int | None
    digests: tuple[str, ...]
    """``sha256:...`` or ``md5:...``; all have to be right."""
    headers: Mapping[str, str] = field(default_factory=dict)
    confirms: bool = False
    """A page with a form may stand before the file."""


def host_of(source: Source) -> str:
    """What a source is called in messages."""
    if source.kind == "hub":
        return f"the hub ({source.address.split('/resolve/')[0].removeprefix('datasets/')})"
    return "Google Drive" if source.kind == "drive" else urlsplit(source.address).netloc


def resolve(source: Source) -> Address:
    """The address of a source; the hub is asked for size and SHA-256.

    The hub's own settings hold: ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``.

    Raises:
        SourceError: The hub does not have the file or cannot be reached.
    """
    digests = (source.digest,) if source.digest else ()
    if source.kind != "hub":
        return Address(source.address, source.size, digests, confirms=source.kind == "drive")
    url = source.address
    if not url.startswith(("http://", "https://")):
        url = f"{constants.ENDPOINT}/{url}"
    try:
        about = get_hf_file_metadata(url)
    except Exception as error:  # the hub's errors, its client's, and the system's
        raise SourceError(_first_line(error)) from error
    if about.size is not None and source.size is not None and about.size != source.size:
        raise SourceError(f"has {about.size:,} bytes, where {source.size:,} are published")
    if about.etag and re.fullmatch(r"[0-9a-f]{64}", about.etag):  # git's large files: SHA-256
        digests = tuple(dict.fromkeys((*digests, f"sha256:{about.etag}")))
    return Address(url, about.size, digests, build_hf_headers())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Page(HTMLParser):
    """The title of a page, and its first form: where it leads, and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note forms, inputs and the beginning of a title."""
        given = dict(attrs)
        self._in_title = tag == "title"
        if tag == "form" and self.action is None:
            self.action = given.get("action")
        if tag == "input" and given.get("name") and self.action is not None:
            self.fields[str(given["name"])] = given.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a title."""
        self._in_title = self._in_title and tag != "title"

    def handle_data(self, data: str) -> None:
        """Collect the title."""
        if self._in_title:
            self.title += data


def _read(page: str) -> _Page:
    parser = _Page()
    with suppress(AssertionError):  # the parser's own, at what is no HTML: "<![x]>"
        parser.feed(page)
    return parser


def title_of(page: str) -> str:
    """The title of a web page, in one line; empty where there is none."""
    return " ".join(_read(page).title.split())


def behind_the_page(page: str, url: str) -> str:
    """Where the form of a page leads: "this file is too large to be scanned, download anyway".

    Args:
        page: The page.
        url: Its address.

    Raises:
        SourceError: The page has no such form. Most often it says that too many people have
            fetched the file today.
    """
    parser = _read(page)
    with suppress(ValueError):  # no address: "http://["
        target = urljoin(url, parser.action or "")
        if parser.fields and urlsplit(target).scheme in ("http", "https"):
            return f"{target.split('?')[0]}?{urlencode(parser.fields)}"
    title = title_of(page)
    raise SourceError(f"shows a page instead of the file{f': {title}' if title else ''}")
