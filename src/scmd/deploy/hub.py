"""Students on the Hugging Face hub: what is uploaded, and loading from there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from scmd.deploy.classifier import MODEL, WEIGHTS, load
from scmd.deploy.description import public_description, public_name, refuse_soup
from scmd.deploy.measured import accuracy_rows, limits
from scmd.errors import ScmdError
from scmd.files import write_json, writing_aside
from scmd.finished import read_summary
from scmd.run_folder import SUMMARY

PREFIX = "hub:"
_NEEDED = (MODEL, WEIGHTS, SUMMARY)
# Not the configuration: it says where the images are on somebody's disk.
_WELCOME = ("curves.png", "confusion.png")


def stage(run: Path, repo: str, out: Path) -> list[Path]:
    """Write into ``out`` what would be uploaded: the model, its numbers and a model card.

    Args:
        run: The folder of a finished run.
        repo: ``owner/name``, for the card's example.
        out: An empty folder.

    Returns:
        The files, sorted.

    Raises:
        ScmdError: The run is not finished, or damaged, or a soup of several.
    """
    summary, description = check_run(run)
    summary, description = public(summary), public_description(description)
    for name in (WEIGHTS, *_WELCOME):
        if (run / name).is_file():
            with (run / name).open("rb") as own, writing_aside(out / name) as file:
                shutil.copyfileobj(own, file)
    write_json(out / SUMMARY, summary)
    write_json(out / MODEL, description)
    with writing_aside(out / "README.md") as file:
        file.write(model_card(summary, description, repo).encode())
    return sorted(out.iterdir())


def push(run: Path, repo: str, private: bool = False) -> str:
    """Upload a finished run's student; returns its address.

    Raises:
        ScmdError: The run is not finished, the name is none, or the hub refuses or is not there.
    """
    check_repo(repo)
    with _staged(run, repo) as folder:
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message="A student trained by scmd"
            )
        except Exception as error:  # the hub's errors, its client's, and the system's
            raise ScmdError(
                f"{repo} cannot be uploaded: {_first_line(error)}. Log in with `hf auth login`, "
                "check the connection, or see what would be uploaded with --dry-run FOLDER"
            ) from error
    return str(commit.repo_url)


@contextmanager
def _staged(run: Path, repo: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        stage(run, repo, Path(folder))
        yield Path(folder)


def check_run(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished run's summary and the description of its model.

    Raises:
        ScmdError: The run is not finished, a file of it is missing or damaged, or it is a soup of
            several.
    """
    for name in _NEEDED:
        if not (run / name).is_file():
            raise ScmdError(
                f"{run} holds no finished run: no {name}. Give one that scmd train wrote"
            )
    description = load(run).description
    refuse_soup(description, run)
    if not isinstance(description.get("method"), str):
        raise ScmdError(f"{run / MODEL} is damaged: no method. Train again, or restore it")
    return read_summary(run, "pages"), description


def public(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what says where something lies on somebody's disk."""
    told = dict(summary)
    if isinstance(told.get("provenance"), dict):
        told["provenance"] = {k: v for k, v in told["provenance"].items() if k != "command"}
    if isinstance(told.get("teacher"), dict):
        told["teacher"] = {**told["teacher"], "name": public_name(told["teacher"]["name"])}
    return told


def check_repo(repo: str) -> None:
    """Raise a ScmdError unless a name is of the form owner/name."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ScmdError(f"{repo!r} is no name of the hub: {error}") from error
    if repo.count("/") != 1:
        raise ScmdError(f"{repo!r} is no name of the hub. Give OWNER/NAME")


def fetch(name: str) -> Path:
    """The local folder of ``hub:owner/name``, downloaded unless it is in the hub's cache.

    Only the weights (safetensors) and their description are fetched, and nothing is unpickled.

    Raises:
        ScmdError: There is no such model, or it cannot be reached.
    """
    repo = name.removeprefix(PREFIX)
    check_repo(repo)
    try:
        return Path(snapshot_download(repo, allow_patterns=["model.json", "model.safetensors"]))
    except Exception as error:  # as in ``push``
        raise ScmdError(
            f"{name} cannot be had: {_first_line(error)}. Check the name and the connection, or "
            "give a local folder"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def model_card(summary: dict[str, Any], model: dict[str, Any], repo: str) -> str:
    """The hub's README.md, with its metadata, from what may be said of a run and its model."""
    seen = (summary.get("teacher") or {}).get("fitted_on_domains")
    told = f", which was fitted on images of {', '.join(seen)}" if seen else ""
    name = model.get("teacher")
    teacher = f" Its teacher was `{name}`{told}." if name else ""
    classes = ", ".join(model["classes"])
    tags = dict.fromkeys(("scmd", "timm", "domain-generalization", model["method"]))
    listed = "\n".join(f"- {tag}" for tag in tags)
    rows, limited = ("\n".join(part(summary)) for part in (accuracy_rows, limits))
    return f"""---
library_name: scmd
pipeline_tag: image-classification
tags:
{listed}
---

# {repo.split("/")[-1]}

A {model["architecture"]} that tells {len(model["classes"])} classes apart: {classes}.
Trained by scmd with the method `{model["method"]}` for {summary["steps"]:,} steps on the domains
{", ".join(summary["sources"])}; seed {summary["seed"]}.{teacher}

## Use

```python
import scmd
from PIL import Image

model = scmd.load("hub:{repo}")
probabilities = model.predict([Image.open("new.jpg")])
print(model.classes[probabilities.argmax()])
```

## Accuracy

{rows}

A source's holdout was not trained on, but chose the weights: its numbers are a little too high. An
interval says how far a number would move with other images of the same domain.

## Limits

{limited}
"""
