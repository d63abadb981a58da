"""One file, fetched from a real server that does all that servers do wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest
from loopback import serving

from scmd.data.benchmarks import addresses, transfer
from scmd.data.benchmarks.addresses import Address, SourceError, behind_the_page
from scmd.data.benchmarks.download import NotHad, fetch
from scmd.data.benchmarks.entries import RemoteFile, Source
from scmd.data.benchmarks.transfer import Patience
from scmd.errors import ScmdError

CONTENT = bytes(range(256)) * 1024
QUICK = Patience(tries=3, unreachable=1, pause=0, timeout=0.5)


@pytest.fixture
def server():
    with serving() as running:
        yield running


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def bring(folder: Path, *sources: Source, accept=lambda path: None, said=None):
    file = RemoteFile("set.bin", sources, "text")
    say = (lambda line: None) if said is None else said.append
    return fetch(file, folder, accept, lambda done, of: None, say, QUICK)


def only_the_file(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["set.bin"]


def reasons_of(folder: Path, *sources: Source) -> str:
    with pytest.raises(NotHad) as refused:
        bring(folder, *sources)
    assert not (folder / "set.bin").exists()
    return str(refused.value)


def test_a_file_is_fetched_and_its_digest_told(server, tmp_path):
    seen = []
    file = RemoteFile("set.bin", (Source(server.put("a", CONTENT)),), "text")
    fetched = fetch(file, tmp_path, lambda p: None, lambda d, o: seen.append((d, o)), print, QUICK)
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.sha256, fetched.confirmed) == (hashlib.sha256(CONTENT).hexdigest(), False)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert only_the_file(tmp_path)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_published_size_and_digest_are_confirmed(server, tmp_path, kind):
    digest = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    source = Source(server.put("a", CONTENT), size=len(CONTENT), digest=digest)
    fetched = bring(tmp_path, source)
    assert fetched is not None
    assert fetched.confirmed
    assert bring(tmp_path, source) is None  # there already: nothing is asked
    assert len(server.requests) == 1


def test_broken_connections_are_resumed_where_they_broke(server, tmp_path):
    url = server.put("a", CONTENT, faults=[1000, 2000])
    said = []
    fetched = bring(tmp_path, Source(url, digest=sha256(CONTENT)), said=said)
    assert fetched is not None
    assert server.ranges("a") == ["", "bytes=1000-", "bytes=3000-"]
    assert server.sent == len(CONTENT)
    assert sum("once more" in line for line in said) == 2


def test_without_ranges_it_begins_anew(server, tmp_path):
    url = server.put("a", CONTENT, faults=[1000], ranges=False)
    fetched = bring(tmp_path, Source(url, digest=sha256(CONTENT)))
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT


def test_without_an_etag_it_begins_anew(server, tmp_path):
    url = server.put("a", CONTENT, faults=[1000], etag=False)
    assert bring(tmp_path, Source(url)) is not None
    assert server.ranges("a") == ["", ""]


def test_a_file_that_changed_between_two_tries_is_not_mixed(server, tmp_path):
    url = server.put("a", CONTENT, faults=[1000, 1000, 1000])
    assert "connection" in reasons_of(tmp_path, Source(url))
    server.put("a", CONTENT[::-1])
    fetched = bring(tmp_path, Source(url))
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT[::-1]
    assert server.ranges("a")[-1].startswith("bytes=")  # it asked, and was told


def test_a_server_that_sends_the_rest_of_another_file_is_noticed(server, tmp_path):
    url = server.put("a", CONTENT, faults=[1000, 1000, 1000])
    assert "connection" in reasons_of(tmp_path, Source(url))
    server.put("a", CONTENT[::-1], heeds_if_range=False)
    fetched = bring(tmp_path, Source(url))
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT[::-1]


def test_a_beginning_that_is_wrong_is_fetched_again(server, tmp_path):
    """The server says that nothing changed, and it did."""
    same = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    url = server.put("a", CONTENT, faults=[1000] * 3, etag=False, headers=same)
    source = Source(url, digest=sha256(CONTENT))
    reasons_of(tmp_path, source)
    (tmp_path / "set.bin.part0").write_bytes(b"x" * 500)
    fetched = bring(tmp_path, source)
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT


@pytest.mark.parametrize("chunked", [False, True])
def test_what_was_whole_and_not_yet_checked_is_not_fetched_again(server, tmp_path, chunked):
    source = Source(server.put("a", CONTENT, chunked=chunked), digest=sha256(CONTENT))

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(tmp_path, source, accept=killed)
    assert bring(tmp_path, source) is not None
    assert len(server.requests) == 1


def test_what_a_kill_left_beside_a_whole_file_is_removed(server, tmp_path):
    for name in ("set.bin", "set.bin.part0", "set.bin.part0.json"):
        (tmp_path / name).write_bytes(b"{}")
    assert bring(tmp_path, Source(server.put("a", CONTENT))) is None
    assert only_the_file(tmp_path)


def test_a_source_that_fails_is_followed_by_the_next(server, tmp_path):
    sources = (
        Source(f"{server.address}/gone"),
        Source(server.put("b", faults=[(500,)] * 3)),
        Source(server.put("c", CONTENT[:-1]), size=len(CONTENT)),
        Source(server.put("d", CONTENT[::-1]), digest=sha256(CONTENT)),
        Source(server.put("e", faults=["page"])),
        Source("http://127.0.0.1:9/nobody-listens"),
        Source(server.put("f", CONTENT), digest=sha256(CONTENT)),
    )
    said = []
    assert bring(tmp_path, *sources, said=said) is not None
    text = "\n".join(said)
    for reason in (
        "answers 404 Not Found", "answers 500", "262,143 bytes, where 262,144 are published",
        "sent another file: its SHA256", "a web page (Sorry)", "cannot be reached",
    ):  # fmt: skip
        assert reason in text
    assert only_the_file(tmp_path)


def test_errors_of_a_moment_are_waited_out(server, tmp_path):
    url = server.put("a", CONTENT, faults=[(503,), (429,)])
    assert bring(tmp_path, Source(url)) is not None


def test_a_wrong_digest_leaves_nothing_that_could_be_resumed(server, tmp_path):
    url = server.put("a", CONTENT)
    reason = reasons_of(tmp_path, Source(url, digest=sha256(b"other")))
    assert hashlib.sha256(CONTENT).hexdigest() in reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["stall", "trickle"])
def test_a_connection_that_sends_next_to_nothing_is_broken_off(server, tmp_path, fault):
    url = server.put("a", CONTENT, faults=[fault] * 3)
    reason = reasons_of(tmp_path, Source(url))
    assert "stopped answering" in reason or "next to nothing" in reason
    assert bring(tmp_path, Source(url)) is not None


def test_more_bytes_than_published_are_not_taken(server, tmp_path):
    url = server.put("a", CONTENT * 2, chunked=True)
    reason = reasons_of(tmp_path, Source(url, size=len(CONTENT)))
    assert "more than the 262,144 bytes" in reason


def test_a_connection_that_ends_early_is_no_whole_file(server, tmp_path):
    url = server.put("a", CONTENT, length=len(CONTENT) + 1, faults=[len(CONTENT)] * 3)
    assert "connection" in reasons_of(tmp_path, Source(url))


def test_redirects_are_followed_but_not_out_of_the_web(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    server.put("a", redirect=secret.as_uri())
    server.put("loop", redirect=f"{server.address}/loop")
    server.put("c", redirect=server.put("real", CONTENT))
    folder = tmp_path / "out"
    folder.mkdir()
    reason = reasons_of(folder, Source(f"{server.address}/a"), Source(f"{server.address}/loop"))
    assert "leads where it must not" in reason
    assert "leads nowhere" in reason
    assert bring(folder, Source(f"{server.address}/c")) is not None


def test_a_redirect_from_https_to_http_is_not_followed():
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.scheme == "https":
            return httpx2.Response(302, headers={"Location": "http://elsewhere/file"})
        return httpx2.Response(200, content=CONTENT)

    address = Address("https://here/file", None, ())
    transport = httpx2.MockTransport(answer)
    with (
        httpx2.Client(transport=transport, follow_redirects=True) as client,
        pytest.raises(SourceError, match="not encrypted"),
        transfer._answer(client, address.url, {}, address),
    ):
        pass


# Answers that no server of ours gives.


Answer = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture
def answering(monkeypatch) -> Callable[[Answer], list[str]]:
    """Put a function in every server's place; returns the ranges that it is asked for."""

    def take_over(answer: Answer) -> list[str]:
        asked: list[str] = []

        def noted(request: httpx2.Request) -> httpx2.Response:
            asked.append(request.headers.get("Range", ""))
            return answer(request)

        client, transport = httpx2.Client, httpx2.MockTransport(noted)
        monkeypatch.setattr(
            transfer.httpx2, "Client", lambda **options: client(**options, transport=transport)
        )
        return asked

    return take_over


def broken_after(content: bytes) -> Iterator[bytes]:
    yield content
    raise httpx2.ReadError("gone")


def the_file(request: httpx2.Request, most: int = len(CONTENT)) -> httpx2.Response:
    """The file, or the rest that was asked for; broken off after so many bytes."""
    first = int(request.headers.get("Range", "bytes=0-")[6:-1])
    headers = {"Last-Modified": "today", "Content-Length": str(len(CONTENT) - first)}
    if first:
        span = f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
        headers = {"Content-Range": span, "Content-Length": str(len(CONTENT) - first)}
    rest = CONTENT[first : first + most]
    content = iter([rest]) if first + most >= len(CONTENT) else broken_after(rest)
    return httpx2.Response(206 if first else 200, headers=headers, content=content)


def test_a_rest_need_not_say_again_what_file_it_is_of(answering, tmp_path):
    asked = answering(lambda request: the_file(request, 10**5))
    assert bring(tmp_path, Source("http://here/a", digest=sha256(CONTENT))) is not None
    assert asked == ["", "bytes=100000-", "bytes=200000-"]


def part_said_to_be(said: str) -> httpx2.Response:
    return httpx2.Response(206, headers=[(b"Content-Range", said.encode("latin-1"))])


WRONG_RANGES = [
    "", "bytes 0-9/262144", "bytes 1000-262143/*", "bytes 1000-262143/\xb3",
    "bytes 1000-262143/" + "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("said", WRONG_RANGES)
def test_a_rest_that_is_none_is_followed_by_the_whole_file(answering, tmp_path, said):
    def answer(request: httpx2.Request) -> httpx2.Response:
        if "Range" in request.headers:
            return part_said_to_be(said)
        return the_file(request, 1000) if len(asked) == 1 else the_file(request)

    asked = answering(answer)
    assert bring(tmp_path, Source("http://here/a", digest=sha256(CONTENT))) is not None
    assert asked == ["", "bytes=1000-", ""]


def test_a_server_that_never_sends_the_rest_is_given_up(answering, tmp_path):
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(206) if "Range" in request.headers else the_file(request, 1000)

    asked = answering(answer)
    for _ in range(2):
        reasons_of(tmp_path, Source("http://here/a"))
    assert len(asked) == 2 * QUICK.tries
    assert asked.count("") > 2  # and is not stuck at what it has


def test_a_validator_that_cannot_be_sent_back_is_none(answering, tmp_path):
    def answer(request: httpx2.Request) -> httpx2.Response:
        content = broken_after(b"abc") if len(asked) == 1 else iter([CONTENT])
        return httpx2.Response(200, headers=[(b"ETag", b'"\xe9"')], content=content)

    asked = answering(answer)
    assert bring(tmp_path, Source("http://here/a")) is not None
    assert asked == ["", ""]


def page(text: str, **headers: str) -> httpx2.Response:
    headers |= {"Content-Type": "text/html"}
    return httpx2.Response(200, headers=headers, content=iter([text.encode()]))


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda: page("<title>Sorry</title><![x]>"),
        lambda: page("no gzip", **{"Content-Encoding": "gzip"}),
        lambda: page("<form action='http://['><input name=a value=b></form>"),
        lambda: page("<form action='//[x'><input name=a value=b></form>"),
        *(partial(part_said_to_be, said) for said in WRONG_RANGES),
        lambda: httpx2.Response(200, headers={"Content-Length": "9" * 5000}, content=iter([b""])),
    ],
)
@pytest.mark.parametrize("kind", ["web", "drive"])
def test_nonsense_is_followed_by_the_next_source(answering, tmp_path, nonsense, kind):
    answering(lambda request: nonsense() if request.url.host == "odd" else the_file(request))
    assert bring(tmp_path, Source("http://odd/a", kind), Source("http://good/a")) is not None


def test_the_drives_errors_of_a_moment_are_waited_out(answering, tmp_path):
    answers = [httpx2.Response(status, html="<title>Busy") for status in (429, 503)]
    asked = answering(lambda request: answers.pop(0) if answers else the_file(request))
    assert bring(tmp_path, Source("http://here/a", "drive")) is not None
    assert len(asked) == 3


def test_a_page_of_the_drive_is_confirmed(server, tmp_path):
    real = server.put("download", CONTENT, faults=[1000])
    page = (
        "<html><title>Virus scan warning</title><form id='download-form' "
        f"action='{real}'><input type='hidden' name='id' value='7'>"
        "<input type='hidden' name='confirm' value='t'></form></html>"
    )
    url = server.put("uc", faults=["page"] * 5, page=page.encode())
    fetched = bring(tmp_path, Source(url, "drive", digest=sha256(CONTENT)))
    assert fetched is not None
    assert server.ranges("download") == ["", "bytes=1000-"]


def test_a_page_of_the_drive_without_a_form_is_told(server, tmp_path):
    page = b"<html><title>Google Drive - Quota exceeded</title></html>"
    url = server.put("uc", faults=["page"], page=page)
    reason = reasons_of(tmp_path, Source(url, "drive"))
    assert reason == (
        "Google Drive: shows a page instead of the file: Google Drive - Quota exceeded"
    )
    with pytest.raises(SourceError):
        behind_the_page("<form action='file:///etc/passwd'><input name='a'></form>", "http://x/")


def test_the_hub_is_asked_for_size_and_digest(server, tmp_path):
    path = "datasets/someone/set/resolve/main/data.bin"
    digest = hashlib.sha256(CONTENT).hexdigest()
    about = {"X-Repo-Commit": "0" * 40, "X-Linked-Size": str(len(CONTENT))}
    url = server.put(path, CONTENT, headers={**about, "X-Linked-Etag": f'"{digest}"'})
    fetched = bring(tmp_path, Source(url, "hub"))
    assert fetched is not None
    assert fetched.confirmed
    (tmp_path / "set.bin").unlink()
    server.put(path, CONTENT, headers={**about, "X-Linked-Etag": f'"{"0" * 64}"'})
    assert "sent another file" in reasons_of(tmp_path, Source(url, "hub"))
    assert "404" in reasons_of(tmp_path, Source(f"{server.address}/datasets/a/b/x", "hub"))


def test_the_hubs_own_settings_hold(server, monkeypatch):
    monkeypatch.setattr(addresses.constants, "ENDPOINT", server.address)
    server.put("someone/set/resolve/main/a", CONTENT, headers={"X-Repo-Commit": "0" * 40})
    address = addresses.resolve(Source("someone/set/resolve/main/a", "hub"))
    assert address.url == f"{server.address}/someone/set/resolve/main/a"
    assert address.size == len(CONTENT)


def test_a_full_disk_is_told_and_what_is_there_stays(server, tmp_path, monkeypatch):
    url = server.put("a", CONTENT, faults=[1000] * 3)
    reasons_of(tmp_path, Source(url))

    def pour(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(transfer, "_pour", pour)
    with pytest.raises(ScmdError, match=r"the disk is full.*run the command again"):
        bring(tmp_path, Source(url))
    monkeypatch.undo()
    before = len(server.requests)
    assert bring(tmp_path, Source(url)) is not None
    assert server.requests[before][2].startswith("bytes=")


def test_too_little_room_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    url = server.put("a", CONTENT)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ScmdError, match="Make room"):
        bring(tmp_path, Source(url))
    assert list(tmp_path.iterdir()) == []
