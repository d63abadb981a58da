"""The package as it is installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import scmd

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_wheel_in_a_clean_environment(tmp_path):
    """The wheel is built, installed where this checkout is out of sight, and run from there."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "clean"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )

    def run(*arguments: object) -> str:
        done = subprocess.run(
            list(map(str, arguments)), cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    where = run(python, "-c", "import scmd; print(scmd.__file__)")
    assert Path(where.strip()).is_relative_to(home)
    # Without a single dependency: help must not wait for them.
    assert "usage: scmd COMMAND" in run(home / "bin" / "scmd", "--help")
    assert run(home / "bin" / "scmd", "--version").startswith("scmd ")
    # The dependencies, which weigh gigabytes, are lent by this environment.
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"])
    assert "usage: scmd train" in run(home / "bin" / "scmd", "train", "--help")
    assert (site / "scmd" / "py.typed").is_file()


def test_what_is_imported_is_declared(project):
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["export"] + extras["ray"]
    declared = {normal(re.split(r"[<>=\[ ]", line)[0]) for line in lines}
    distributions = packages_distributions()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in {name.split(".")[0] for name in names}:
                if name == "scmd" or name in sys.stdlib_module_names:
                    continue
                homes = {normal(home) for home in distributions[name]}
                assert homes & declared, f"{path} imports {name}, which is not declared"


def test_dependencies_have_lower_bounds_and_pins(project):
    lines = (ROOT / "constraints.txt").read_text().split()
    pins = {normal(line.split("==")[0]): line for line in lines}
    optional = [line for extra in project["optional-dependencies"].values() for line in extra]
    for line in (*project["dependencies"], *optional):
        assert ">=" in line
        assert normal(line.split(">=")[0]) in pins
    assert all("==" in line for line in lines)


def test_public_names_are_there_and_documented():
    for name in scmd.__all__:
        value = getattr(scmd, name)
        assert name == "METHODS" or value.__doc__
    assert set(scmd.__all__) == set(dir(scmd))
    with pytest.raises(AttributeError, match="no attribute 'Scmd'"):
        _ = scmd.Scmd  # pyright: ignore[reportAttributeAccessIssue]


def test_python_page_names_everything_and_its_example_runs(capsys):
    page = (ROOT / "docs" / "python.md").read_text()
    for name in scmd.__all__:
        assert name == "__version__" or re.search(rf"\b{name}\b", page), name
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/python.md", "exec"), {})
    assert capsys.readouterr().out.startswith("4 tensor([")


def test_no_public_name_is_shadowed_by_a_module():
    """To import a module of that name would put it in the place of the function."""
    modules = {path.stem for path in (ROOT / "src" / "scmd").iterdir()}
    assert not modules & set(scmd.__all__)


def test_floors(project):
    """A lower floor never imports a higher one."""
    floors = [
        {"errors", "limits", "redact", "seeds", "machine", "files"},
        {"progress", "store", "processes", "stopping", "finite", "toml_tables"},
        {"data"},
        {"models", "losses", "losses_distillation", "losses_domains", "selection"},
        {"methods"},
        {"averaging", "swad", "soup", "checkpoint", "presets", "config", "cache"},
        {"build", "evaluate", "efficiency", "records", "run_folder", "finished", "provenance"},
        {"report", "deploy"},
        {"estimate", "scoring", "choosing", "summary"},
        {"stepping", "loop", "fit_roles", "fit"},
        {"demo", "protocol", "bench"},
        {"parsing", "arguments", "commands"},
        {"cli", "__init__"},
    ]
    floor_of = {name: index for index, names in enumerate(floors) for name in names}
    source = ROOT / "src" / "scmd"
    for path in source.rglob("*.py"):
        relative = path.relative_to(source)
        here = relative.parts[0].removesuffix(".py")
        assert here in floor_of, f"{here} has no floor"
        if here in ("__init__", "cli"):
            continue
        for name in re.findall(r"^\s*from scmd\.(\w+)", path.read_text(), re.MULTILINE):
            assert floor_of[name] <= floor_of[here], f"{relative} imports scmd.{name}"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
