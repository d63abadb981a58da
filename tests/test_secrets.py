"""Tokens never reach a file, nor what is printed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from scmd.cli import main
from scmd.deploy import hub
from scmd.redact import redacted, redacted_arguments

SECRETS = {
    "HF_TOKEN": "hf_QmVyeVNlY3JldFRva2Vu",
    "HUGGING_FACE_HUB_TOKEN": "plainlookingvalue-1",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-battery",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
}
TRAIN = [
    "--method", "erm", "--image-size", "24", "--student", "test_efficientnet",
    "--no-student-pretrained", "--steps", "2", "--batch-per-domain", "2", "--workers", "0",
    "--evaluate-every", "2", "--checkpoint-every", "2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def assert_clean(text: str | bytes, where: object, *more: str) -> None:
    text = text.encode() if isinstance(text, str) else text
    for secret in (*SECRETS.values(), *more):
        assert secret.encode() not in text, where


def assert_files_clean(folder: Path, *more: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert_clean(path.read_bytes(), path, *more)
        assert_clean(str(path), path, *more)


def test_tokens_reach_no_file_and_no_output(image_folder, tmp_path, monkeypatch, capfd, caplog):
    """Training with a tracker, a report, and an upload that is refused with the token in it."""
    caplog.set_level(logging.INFO)
    root, out = image_folder(("art", "photo"), count=6, size=24), tmp_path / "run"
    train = ["train", str(root), "--target", "photo", "--out", str(out), *TRAIN]
    train += ["--tracker", "tensorboard"]
    given = "handed-to-a-wrapper"
    address = "https://someone:pass-in-url@example.org/?access_token=query-token"
    planted = (given, "pass-in-url", "query-token")
    told = ["scmd", *train, "--token", given, f"--api-key={given}", address, SECRETS["HF_TOKEN"]]
    monkeypatch.setattr(sys, "argv", told)
    assert main(train) == 0, capfd.readouterr().err
    assert list(out.rglob("events.out.tfevents*"))
    assert main(["report", str(out), "--out", str(tmp_path / "page")]) == 0

    class Api:
        def create_repo(self, *args, **kwargs):
            raise OSError(
                f"401 for {address} with Authorization: Bearer {SECRETS['HF_TOKEN']}, "
                f"--token {given}"
            )

        def upload_folder(self, repo_id, folder_path, commit_message):
            assert_files_clean(Path(folder_path), str(root), *planted)
            return type("Commit", (), {"repo_url": f"https://huggingface.co/{repo_id}"})

    monkeypatch.setattr(hub, "HfApi", Api)
    assert main(["push", str(out), "someone/pets"]) == 2
    said = capfd.readouterr()
    assert "cannot be uploaded: 401" in said.err
    assert_clean(said.out + said.err, "printed", *planted)
    monkeypatch.setattr(Api, "create_repo", lambda self, *args, **kwargs: None)
    assert main(["push", str(out), "someone/pets"]) == 0
    staged = tmp_path / "staged"
    assert main(["push", str(out), "someone/pets", "--dry-run", str(staged)]) == 0
    said = capfd.readouterr()
    assert_clean(said.out + said.err + caplog.text, "printed", *planted)
    assert_files_clean(tmp_path, *planted)
    assert "--token '***'" in (out / "summary.json").read_text()
    assert "command" not in (staged / "summary.json").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "https://someone:pass-in-url@example.org/data"],
        ["train", "{root}", "--teacher", "https://someone:pass-in-url@example.org/m"],
        ["train", "{root}", "--token", "pass-in-url"],
        ["train", "{root}", "--token=pass-in-url"],
        ["train", "{root}", "--target", "hf_QmVyeVNlY3JldFRva2Vu"],
        ["train", "{root}", "--tracker", "hf_QmVyeVNlY3JldFRva2Vu"],
        ["push", "{root}", "hf_QmVyeVNlY3JldFRva2Vu"],
        ["hf_QmVyeVNlY3JldFRva2Vu"],
        ["predict", "hub:someone/hf_QmVyeVNlY3JldFRva2Vu", "x.png"],
    ],
)
def test_what_is_wrong_is_said_without_the_secret(image_folder, tmp_path, arguments, capfd):
    root = image_folder(("art", "photo"), count=6, size=24)
    arguments = [a.format(root=root) for a in arguments]
    if arguments[0] == "train":
        arguments += ["--out", str(tmp_path / "run")]
        arguments += [] if "--teacher" in arguments else TRAIN
    assert main(arguments) == 2
    said = capfd.readouterr()
    assert said.err.startswith("error: ")
    assert_clean(said.out + said.err, arguments, "pass-in-url")
    assert_files_clean(tmp_path, "pass-in-url")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("https://me:pw12@host/x", "https://***@host/x"),
        ("s3://key@bucket", "s3://***@bucket"),
        ("https://me:p@ss@host/x@y", "https://***@host/x@y"),
        ("http://h/x?a=1&token=abc&b=2", "http://h/x?a=1&token=***&b=2"),
        ("https://h/x?X-Amz-Signature=abc", "https://h/x?X-Amz-Signature=***"),
        ("hf_abcdefghijklmnopqrstuv", "***"),
        ("--hub-token abc --seed 3", "--hub-token *** --seed 3"),
        ("mail me@host, lr 1e-3, a@b", "mail me@host, lr 1e-3, a@b"),
        ("photo/cat/hf_0.png and https://h/x?seed=3", "photo/cat/hf_0.png and https://h/x?seed=3"),
    ],
)
def test_redacted(text, cut):
    assert redacted(text) == cut
    assert redacted(cut) == cut


def test_redacted_arguments():
    given = ["scmd", "x", "--token", "abc", "--password=def", "--seed", "3", "--api-key", "--flip"]
    cut = ["scmd", "x", "--token", "***", "--password=***", "--seed", "3", "--api-key", "--flip"]
    assert redacted_arguments(given) == cut


def test_variables_that_hold_no_secret_are_left(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "photographs")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/someone/token")
    assert (
        redacted("false photographs /home/someone/token") == "false photographs /home/someone/token"
    )
