"""A teacher that remembers says what the teacher says, and nobody asks twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import CLASSES, ToyBackbone, ToyTeacher, make_batch

import scmd.models.remembered as remembered
import scmd.models.teacher as teachers
from scmd.averaging import AverageConfig
from scmd.build import assign_roles
from scmd.cache import Shared
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.data.digit_styles import render
from scmd.data.digits import NAMES, label, members
from scmd.data.folder import DomainImages, load_domains
from scmd.data.images import read_image
from scmd.data.loader import Batch, DomainBatches, training_batches
from scmd.data.views import FixedViews
from scmd.errors import BadImageError, ScmdError
from scmd.loop import estimate_run, train
from scmd.methods import METHODS
from scmd.methods.scmd import SCMDConfig
from scmd.models.images import as_float
from scmd.models.pretrained import EMBEDDED, parse_name
from scmd.models.prompts import PromptConfig
from scmd.models.remembered import RememberingTeacher, remember
from scmd.models.student import StudentConfig
from scmd.models.teacher import CLIPTeacher, TeacherConfig, load_teacher
from scmd.report.opinions import teacher_opinions
from scmd.selection import SelectionConfig
from scmd.stepping import Stepper
from scmd.store import cache_root

QUIET = Console(quiet=True)
CPU = torch.device("cpu")
SIZE = 64
"""Of the embedded teacher's images."""
DISTILLING = [name for name, method in METHODS.items() if method.needs_teacher]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits of every class in three styles: 90 images."""
    root = tmp_path_factory.mktemp("few") / "digits"
    for style in ("chalk", "ink", "photo"):
        for digit in range(10):
            own = [index for index in members(style) if label(int(index)) == digit][:3]
            for index in own:
                path = root / style / NAMES[digit] / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                render(int(index), style).save(path)
    return root


@pytest.fixture
def data(digits: Path) -> DomainImages:
    return load_domains(digits)


@pytest.fixture
def few(digits: Path, tmp_path: Path) -> DomainImages:
    """A copy of one style that a test may change: 30 images."""
    shutil.copytree(digits / "ink", tmp_path / "few" / "ink")
    shutil.copytree(digits / "chalk" / "one", tmp_path / "few" / "chalk" / "one")
    return load_domains(tmp_path / "few", "union")


class Asked:
    """How many images an image tower is shown, of whatever teacher."""

    def __init__(self) -> None:
        self.images = 0

    def since(self) -> int:
        """Since the last time that this was called."""
        found, self.images = self.images, 0
        return found


@pytest.fixture
def asked(monkeypatch) -> Asked:
    counter, embed = Asked(), CLIPTeacher.normalized_embeddings

    def counting(self: CLIPTeacher, pixels: Tensor) -> Tensor:
        counter.images += len(pixels)
        return embed(self, pixels)

    monkeypatch.setattr(CLIPTeacher, "normalized_embeddings", counting)
    # A teacher that is loaded is shown noise, which is not counted.
    monkeypatch.setattr(teachers, "try_on_noise", lambda teacher: None)
    return counter


def recall(
    data: DomainImages,
    view: Any = "clean",
    views: int = 2,
    rows: np.ndarray | None = None,
    name: str = EMBEDDED,
    prompts: PromptConfig | None = None,
    **changes: Any,
) -> RememberingTeacher:
    """What is remembered of all samples, or of some."""
    config = TeacherConfig(name, prompts or PromptConfig(), view=view, views=views)
    rows = np.arange(len(data)) if rows is None else rows
    given = {"size": SIZE, "flip": False, "workers": 0, "device": CPU, "console": QUIET, **changes}
    return remember(load_teacher(config, data.classes), config, data, rows, **given)


def bound(teacher: RememberingTeacher) -> float:
    """How far a logit may be off: half precision, twice."""
    return float(teacher.scale) * 2**-10


NO_IMAGES = torch.empty(0)


def test_clean_logits_are_those_of_the_zero_shot_evaluation(data):
    teacher = recall(data)
    pixels = torch.stack([teacher.beneath.preprocess(read_image(s.path)) for s in data])
    exact = teacher.beneath.normalized_logits(pixels)
    ids = torch.from_numpy(data.ids)
    error = (teacher.logits(NO_IMAGES, ids) - exact).abs()
    assert error.max() < bound(teacher)
    assert error.max() < 0.01  # as documented: logits of this teacher are up to 14
    embeddings = teacher.embeddings(NO_IMAGES, ids)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(data)))
    order = torch.randperm(len(data))[:7]
    assert torch.equal(teacher.embeddings(NO_IMAGES, ids[order]), embeddings[order])


def batches_of(
    data: DomainImages, views: FixedViews | None, seed: int = 0, workers: int = 0, steps: int = 4
) -> list[Batch]:
    rows = [data.rows(domain) for domain in data.domains]
    plan = DomainBatches(data, rows, 5, seed, 0, steps)
    return list(training_batches(plan, data, SIZE, seed, workers, False, False, views))


def test_fixed_logits_are_the_teachers_own_on_the_same_batch(data):
    teacher = recall(data, "fixed")
    for seed in (0, 1):
        for batch in batches_of(data, teacher.views, seed):
            exact = teacher.beneath.logits(as_float(batch.images))
            error = (teacher.logits(batch.images, batch.teacher_ids) - exact).abs().max()
            assert error < min(bound(teacher), 0.01)


def test_fixed_views_are_the_same_in_every_run_and_of_every_copy(few, tmp_path):
    pictures: dict[int, set[bytes]] = {}
    shutil.copytree(few.root, tmp_path / "copy" / "elsewhere")
    copy = load_domains(tmp_path / "copy" / "elsewhere", "union")
    for data in (few, copy):
        views = recall(data, "fixed").views
        for seed in (0, 1):
            for batch in batches_of(data, views, seed, workers=seed, steps=12):
                pixels = [image.numpy().tobytes() for image in batch.images]
                for number, picture in zip(batch.teacher_ids.tolist(), pixels, strict=True):
                    pictures.setdefault(number, set()).add(picture)
    assert all(len(seen) == 1 for seen in pictures.values())
    contents = {sample.path.read_bytes() for sample in few}
    assert len(contents) < len(pictures) <= 2 * len(contents)
    assert len(set.union(*pictures.values())) == len(pictures)


def test_each_run_draws_its_own_of_the_fixed_views(data):
    views = recall(data, "fixed", 3).views
    assert views is not None
    row = int(data.rows("ink")[0])
    drawn = {seed: [views.drawn(seed, step, 0, row) for step in range(40)] for seed in (0, 1)}
    assert set(drawn[0]) == set(drawn[1]) == {views.seed(row, view) for view in range(3)}
    assert drawn[0] != drawn[1]


def test_without_views_a_teacher_knows_images_by_their_sample_ids(data):
    for batch in batches_of(data, None):
        assert torch.equal(batch.teacher_ids, batch.sample_ids)


# What is asked, and what is not asked again.


def test_the_second_time_nobody_is_asked(few, asked):
    contents = len({sample.path.read_bytes() for sample in few})
    first = recall(few)
    assert asked.since() == contents
    again = recall(few)
    other_prompts = recall(few, prompts=PromptConfig(("a {}", "the {} there")))
    assert asked.since() == 0
    ids = torch.from_numpy(few.ids)
    assert torch.equal(first.logits(NO_IMAGES, ids), again.logits(NO_IMAGES, ids))
    assert not torch.equal(first.text_embeddings, other_prompts.text_embeddings)
    assert torch.equal(first.embeddings(ids, ids), other_prompts.embeddings(ids, ids))


def test_only_what_is_new_is_asked_about(few, asked, tmp_path):
    ink = few.rows("ink")
    recall(few, rows=ink[:10])
    assert asked.since() == 10
    recall(few, rows=ink)
    assert asked.since() == 20
    shutil.copytree(few.root / "ink", tmp_path / "other" / "domain")
    moved = load_domains(tmp_path / "other", one_is_enough=True)
    assert not set(moved.ids) & set(few.ids)
    recall(moved)
    assert asked.since() == 0
    path = few[int(ink[4])].path
    Image.new("RGB", (9, 9), "red").save(path)
    changed = recall(few, rows=ink)
    assert asked.since() == 1
    exact = changed.beneath.normalized_embeddings(
        changed.beneath.preprocess(read_image(path))[None]
    )
    found = changed.embeddings(NO_IMAGES, torch.from_numpy(few.ids[ink[[4]]]))
    torch.testing.assert_close(found, exact, atol=2e-3, rtol=0)


def test_more_views_are_asked_about_and_fewer_are_there(few, asked):
    rows = few.rows("ink")
    for views, count in ((2, 2), (5, 3), (3, 0), (5, 0)):
        recall(few, "fixed", views, rows)
        assert asked.since() == count * len(rows)


@pytest.mark.parametrize(
    ("view", "changes", "asks"),
    [
        ("clean", {"size": 80}, False),  # the student's
        ("clean", {"flip": True}, False),
        ("clean", {"workers": 1}, False),
        ("fixed", {"size": 80}, True),
        ("fixed", {"flip": True}, True),
        ("fixed", {"workers": 1}, False),
        ("clean", {"augmentation": "torchvision"}, False),
        ("fixed", {"augmentation": "torchvision"}, True),
    ],
)
def test_what_an_embedding_depends_on_is_told_apart(few, asked, view, changes, asks):
    rows = few.rows("ink")[:3]
    recall(few, view, 1, rows)
    asked.since()
    recall(few, view, 1, rows, **changes)
    assert asked.since() == (3 if asks else 0)


@pytest.mark.parametrize("part", ["visual", "preprocess_cfg", "text", "logit_scale"])
def test_other_weights_and_preprocessing_are_told_apart(few, asked, tmp_path, part):
    """Of the image tower; what the texts and the scale are matters at the end only."""
    name, _ = parse_name(EMBEDDED)
    own = Path(shutil.copytree(name.removeprefix("local-dir:"), tmp_path / "own"))
    rows = few.rows("ink")[:3]
    recall(few, rows=rows)
    recall(few, rows=rows, name=str(own))
    assert asked.since() == 3  # wherever it lies
    if part == "preprocess_cfg":
        config = json.loads((own / "open_clip_config.json").read_text())
        config["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
        (own / "open_clip_config.json").write_text(json.dumps(config))
    else:
        weights = load_file(own / "open_clip_model.safetensors")
        changed = next(
            n for n, w in weights.items()
            if w.is_floating_point() and n.startswith("visual.") == (part == "visual")
            and (n == "logit_scale") == (part == "logit_scale")
        )  # fmt: skip
        weights[changed] = weights[changed] + 0.01
        save_file(weights, own / "open_clip_model.safetensors")
    recall(few, rows=rows, name=str(own))
    assert asked.since() == (3 if part in ("visual", "preprocess_cfg") else 0)


def test_another_activation_has_another_key(clip_folder):
    """Which is no weight: with and without QuickGELU a tower has the same state dict."""
    import open_clip

    cfg = json.loads((clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    plain = load_teacher(TeacherConfig(str(clip_folder)), ("a", "b"))
    quick = load_teacher(TeacherConfig(str(clip_folder)), ("a", "b"))
    quick.model = open_clip.CLIP(**cfg, quick_gelu=True)
    quick.model.load_state_dict(plain.model.state_dict())
    about = {"view": "clean", "preprocessing": {}, "versions": {}}
    assert remembered._key(plain, about) != remembered._key(quick, about)
    again = load_teacher(TeacherConfig(str(clip_folder)), ("a", "c"))
    assert remembered._key(plain, about) == remembered._key(again, about)


# Stops and others.

RECALL = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from rich.console import Console
import scmd.models.remembered as remembered
from scmd.data.folder import load_domains
from scmd.models.teacher import CLIPTeacher, TeacherConfig, load_teacher

root, view, last, out = sys.argv[1:]
remembered.BATCH, remembered.WRITE_EVERY = 4, 8
embed, shown = CLIPTeacher.normalized_embeddings, 0

def counting(self, pixels):
    global shown
    if shown == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
    shown += len(pixels)
    return embed(self, pixels)

torch.set_num_threads(1)
data, config = load_domains(root, "union"), TeacherConfig("embedded", view=view, views=2)
teacher = load_teacher(config, data.classes)
CLIPTeacher.normalized_embeddings = counting
print("ready", flush=True)
sys.stdin.readline()
remembered.remember(
    teacher, config, data, np.arange(len(data)), 64, False, 0, torch.device("cpu"),
    Console(file=open(out, "w")),
)
print(shown)
"""


def start(data: DomainImages, view: str, kill_at: int, out: Path) -> subprocess.Popen:
    """A process of its own that remembers all samples; it waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", RECALL, str(data.root), view, str(kill_at), str(out)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("view", ["clean", "fixed"])
def test_killed_in_the_middle_it_goes_on(few, tmp_path, asked, view):
    contents = len({sample.path.read_bytes() for sample in few})
    questions = contents * (2 if view == "fixed" else 1)
    process = start(few, view, 12, tmp_path / "said")
    process.communicate("\n", timeout=100)
    assert process.returncode == -signal.SIGKILL
    stopped = recall(few, view)
    assert asked.since() == questions - 8  # twelve were shown, eight written
    ids = stopped._ids
    shutil.rmtree(cache_root())
    whole = recall(few, view)
    assert np.array_equal(ids, whole._ids)
    found = [teacher.embeddings(NO_IMAGES, torch.from_numpy(ids)) for teacher in (stopped, whole)]
    torch.testing.assert_close(*found, atol=1e-3, rtol=0)


def test_of_two_processes_one_asks(few, tmp_path):
    contents = len({sample.path.read_bytes() for sample in few})
    both = [start(few, "clean", -1, tmp_path / str(i)) for i in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    shown = [int(process.communicate(timeout=100)[0]) for process in both]
    assert sorted(shown) == [0, contents]


def test_who_finds_it_held_says_so_and_waits(few, monkeypatch):
    said: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "print", said.append)

    def held(folder: Path, waiting: Any) -> Any:
        waiting()
        return exclusive(folder)

    exclusive = remembered.exclusive
    monkeypatch.setattr(remembered, "exclusive", held)
    recall(few, console=console)
    assert said == ["another process asks the teacher; waiting"]


# What can go wrong.


def test_an_image_that_it_was_not_asked_about_is_an_error(data):
    teacher = recall(data, rows=data.rows("ink"))
    stranger = torch.from_numpy(data.ids[data.rows("photo")])
    with pytest.raises(ScmdError, match=rf"not asked about the image {stranger[0]} before"):
        teacher.logits(NO_IMAGES, stranger)


def test_damage_is_noticed(few):
    recall(few)
    (folder,) = (cache_root() / "teacher").iterdir()
    file = folder / "embeddings.f16"
    file.write_bytes(bytes(file.stat().st_size))
    teacher = recall(few)
    with pytest.raises(ScmdError, match=r"teacher are damaged\. Remove that folder"):
        teacher.embeddings(NO_IMAGES, torch.from_numpy(few.ids))


def test_a_cache_that_cannot_be_written_is_an_error_and_one_that_is_full_serves(
    few, monkeypatch, tmp_path
):
    recall(few)

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be written")

    with monkeypatch.context() as patch:
        patch.setattr(remembered, "exclusive", refuse)
        recall(few)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCMD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ScmdError, match=r"cannot be written: .*SCMD_CACHE"):
        recall(few)


@pytest.mark.parametrize("view", ["clean", "fixed"])
def test_an_undecodable_image_is_named(few, view):
    path = few[3].path
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadImageError, match=rf"{path}.*--skip-bad"):
        recall(few, view)


def test_a_teacher_of_broken_weights_is_an_error(few, monkeypatch):
    def broken(self: CLIPTeacher, pixels: Tensor) -> Tensor:
        return torch.full((len(pixels), 64), torch.nan)

    monkeypatch.setattr(CLIPTeacher, "normalized_embeddings", broken)
    monkeypatch.setattr(teachers, "try_on_noise", lambda teacher: None)  # it breaks afterwards
    with pytest.raises(ScmdError, match="not finite"):
        recall(few)


# In a run.


def config_for(digits: Path, method: str, view: Any = "clean") -> RunConfig:
    hparams = METHODS[method].Config(lr=1e-3)
    if isinstance(hparams, SCMDConfig):
        hparams = replace(hparams, selection=SelectionConfig(fraction=0.5))
    return RunConfig(
        method=method,
        data=DataConfig(path=str(digits), target="photo", image_size=32, flip=False),
        student=StudentConfig(name="test_efficientnet", pretrained=False, freeze_batch_norm=False),
        teacher=TeacherConfig(EMBEDDED, view=view, views=2),
        hparams=hparams,
        training=TrainingConfig(
            steps=6,
            batch_per_domain=4,
            evaluate_every=3,
            checkpoint_every=3,
            log_every=1,
            workers=0,
        ),
        average=AverageConfig(average_start=2),
    )


class StopError(Exception):
    pass


RESULTS = ("model.safetensors", "metrics.jsonl")


@pytest.mark.parametrize(
    ("method", "view"), [*((name, "clean") for name in DISTILLING), ("scmd", "fixed")]
)
def test_training_never_asks_and_resumes_to_the_bit(
    digits, tmp_path, monkeypatch, asked, method, view
):
    config = config_for(digits, method, view)
    step = Stepper.step

    def stopping(self, batch, number, *rest):
        if number == 4 and stop:
            raise StopError
        before = asked.images
        decided = step(self, batch, number, *rest)
        assert asked.images == before
        return decided

    monkeypatch.setattr(Stepper, "step", stopping)
    stop = False
    train(config, tmp_path / "whole", console=QUIET)
    stop = True
    with pytest.raises(StopError):
        train(config, tmp_path / "stopped", console=QUIET)
    stop = False
    summary = train(config, tmp_path / "stopped", resume=True, console=QUIET)
    assert summary["teacher"]["view"] == view
    assert summary["cost"]["teacher, image tower"]["flops"] > 0
    for name in RESULTS:
        assert (tmp_path / "whole" / name).read_bytes() == (
            tmp_path / "stopped" / name
        ).read_bytes()


def test_a_fixed_view_trains_as_the_teacher_asked_live_would(digits, tmp_path, monkeypatch):
    """Up to half precision: the same views, the same opinions, the same losses."""
    config = config_for(digits, "kd", "fixed")
    train(config, tmp_path / "remembered", console=QUIET)

    def live(self: RememberingTeacher, images: Tensor, sample_ids: Tensor) -> Tensor:
        return self.beneath.logits(images)

    monkeypatch.setattr(RememberingTeacher, "logits", live)
    train(config, tmp_path / "live", console=QUIET)
    remembered, live_ones = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("remembered", "live")
    )
    losses = [[line["loss"] for line in log if "loss" in line] for log in (remembered, live_ones)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_only_training_images_of_the_sources_are_asked_about(digits, tmp_path, asked):
    config = config_for(digits, "kd")
    roles = assign_roles(config)
    stepper = Stepper(config, roles, tmp_path, QUIET, Shared(0))
    assert asked.since() == sum(map(len, roles.train_rows()))
    assert isinstance(stepper.method.teacher, RememberingTeacher)
    assert set(stepper.method.teacher._ids) == set(
        roles.data.ids[np.concatenate(roles.train_rows())]
    )


@pytest.mark.parametrize(("view", "size"), [("augmented", 64), ("clean", 32), ("fixed", 64)])
def test_a_batch_is_as_large_as_somebody_looks_at_it(digits, tmp_path, view, size):
    config = config_for(digits, "kd", view)
    assert Stepper(config, assign_roles(config), tmp_path, QUIET, Shared(0)).size == size


def test_runs_of_one_process_share_batches_and_mix_none_up(digits, tmp_path):
    """Views that are fixed are no batches of another kind, nor of another number of views."""
    shared = Shared()
    kinds = [("augmented", 2), ("fixed", 2), ("clean", 2), ("fixed", 3), ("fixed", 2)]
    for place, (view, views) in enumerate(kinds):
        config = config_for(digits, "scmd", view)
        config = replace(config, teacher=replace(config.teacher, views=views))
        train(config, tmp_path / f"shared{place}", console=QUIET, shared=shared)
        train(config, tmp_path / f"alone{place}", console=QUIET)
        for name in RESULTS:
            together, alone = (tmp_path / f"{kind}{place}" / name for kind in ("shared", "alone"))
            assert together.read_bytes() == alone.read_bytes()


def test_a_report_asks_about_what_the_run_did_not(digits, tmp_path, asked):
    config = config_for(digits, "kd")
    roles = assign_roles(config)
    Stepper(config, roles, tmp_path, QUIET, Shared(0))
    asked.since()
    every = np.arange(len(roles.data))
    found = teacher_opinions(tmp_path, config, roles.data, every)
    assert asked.since() == len(every) - sum(map(len, roles.train_rows()))
    (tmp_path / "live").mkdir()
    plain = replace(config, teacher=replace(config.teacher, view="augmented"))
    exact = teacher_opinions(tmp_path / "live", plain, roles.data, every)
    np.testing.assert_allclose(found.probabilities, exact.probabilities, atol=1e-3)


@pytest.mark.parametrize("method", DISTILLING)
def test_every_method_asks_by_the_teachers_numbers(method):
    asked: list[int] = []

    class Recording(ToyTeacher):
        def logits(self, images: Tensor, sample_ids: Tensor) -> Tensor:
            asked.extend(sample_ids.tolist())
            return super().logits(images, sample_ids)

        def embeddings(self, images: Tensor, sample_ids: Tensor) -> Tensor:
            asked.extend(sample_ids.tolist())
            return super().embeddings(images, sample_ids)

    batch = make_batch()
    batch = batch._replace(sample_ids=torch.arange(20), teacher_ids=torch.arange(20) + 40)
    for progress in (0.0, 0.99):
        METHODS[method](ToyBackbone(), Recording(), None, CLASSES, 2)(batch, progress)
    assert asked
    assert min(asked) >= 40


@pytest.mark.parametrize("view", ["clean", "fixed"])
def test_an_estimate_asks_and_writes_nothing(digits, asked, view):
    assert estimate_run(config_for(digits, "scmd", view)) > 0
    assert asked.since() == 0
    assert not (cache_root() / "teacher").exists()


def test_processes_of_one_run_ask_once(digits, tmp_path):
    config = config_for(digits, "kd")
    config = replace(config, student=replace(config.student, freeze_batch_norm=True))
    from scmd.config import save_config

    save_config(config, tmp_path / "config.toml")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "scmd.cli",
        "train", "--config", tmp_path / "config.toml", "--out", tmp_path / "two",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    (folder,) = (cache_root() / "teacher").iterdir()
    roles = assign_roles(config)
    assert (folder / "keys.i64").stat().st_size == 8 * sum(map(len, roles.train_rows()))
