"""The pages: they are built without a warning, complete, and their links lead somewhere."""

from __future__ import annotations

import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import scmd
from scmd import commands
from scmd.cli import COMMANDS, main
from scmd.methods import METHODS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS) for page in DOCS.rglob("*.md") if "_build" not in page.parts)


class Page(HTMLParser):
    """The places that a page's links may lead to, and its links."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.text = file.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name == "id":
                self.ids.add(value)
            elif value and name in ("href", "src"):
                self.links.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The built pages, by their place in the site."""
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    builder = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*builder, "-d", out / "doctrees", DOCS, out / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {file.relative_to(out): Page(file) for file in (out / "html").rglob("*.html")}


def test_every_page_is_in_the_table_of_contents(site: dict[Path, Page]):
    reachable = site[Path("html/index.html")].links
    for page in PAGES:
        name = page.with_suffix(".html").as_posix()
        assert name in reachable or name == "index.html", f"no toctree has {page}"


def test_links_within_the_site_lead_somewhere(site: dict[Path, Page]):
    for here, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("https", "data"), f"{here}: {link}"
                continue
            there = here if not parts.path else _normal(here.parent / unquote(parts.path))
            if there.suffix != ".html":
                continue
            assert there in site, f"{here}: {link}"
            fragment = unquote(parts.fragment)
            assert not fragment or fragment in site[there].ids, f"{here}: {link}"


def test_the_reference_has_the_public_names_and_every_method(site: dict[Path, Page]):
    documented = set().union(*(page.ids for page in site.values()))
    for name in scmd.__all__:
        assert name == "__version__" or f"scmd.{name}" in documented, name
    for method in METHODS.values():
        for thing in (method, method.Config):
            places = {f"scmd.{thing.__name__}", f"{thing.__module__}.{thing.__name__}"}
            assert places & documented, f"docs/api/methods.md has no {thing.__name__}"


def test_the_page_of_the_commands_has_every_flag(
    site: dict[Path, Page], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = site[Path("html/commands.html")]
    monkeypatch.setenv("COLUMNS", "200")
    for command in COMMANDS:
        assert f"scmd-{command.replace(' ', '-')}" in page.ids
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        flags = set(re.findall(r"^\W*(--[a-z][\w.-]*)", capsys.readouterr().out, re.MULTILINE))
        for flag in flags - {"--help"}:
            assert re.search(rf'class="pre">{re.escape(flag)}\b', page.text), f"{command} {flag}"


def test_the_pages_tell_nothing_of_the_machine(site: dict[Path, Page]):
    for here, page in site.items():
        assert str(ROOT) not in page.text, here
        assert sys.prefix not in page.text, here


def _normal(path: Path) -> Path:
    parts: list[str] = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return Path(*parts)


# Without Sphinx.


@pytest.mark.parametrize("page", [Path("../README.md"), *PAGES], ids=str)
def test_links_between_the_sources_lead_somewhere(page: Path):
    """As they are followed where the repository is browsed."""
    file = DOCS / page
    for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        there = file if not parts.path else (file.parent / parts.path).resolve()
        assert there.exists(), f"{page}: {link}"
        assert not parts.fragment or parts.fragment in _headings(there), f"{page}: {link}"


def _headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def _commands() -> Iterator[str]:
    for page in (ROOT / "README.md", *(DOCS / page for page in PAGES)):
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("scmd "):
                    yield line


@pytest.mark.parametrize("line", dict.fromkeys(_commands()))
def test_commands_of_the_pages_have_their_flags(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """They are parsed, and not run."""
    monkeypatch.chdir(tmp_path)
    for name, (arguments, _) in commands._COMMANDS.items():
        monkeypatch.setitem(commands._COMMANDS, name, (arguments, lambda _: 0))
    assert main(shlex.split(line, comments=True)[1:]) == 0


def test_the_names_of_the_pages_can_be_imported():
    for page in (ROOT / "README.md", *(DOCS / page for page in PAGES)):
        for name in re.findall(r"`(scmd(?:\.\w+)+)[`(]", page.read_text()):
            pkgutil.resolve_name(name)
