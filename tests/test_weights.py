"""Files of other people: read without running code, and checked before they are used."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import CLASSES, method_of, save, student
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scmd.deploy.classifier import load
from scmd.deploy.onnx import FORMAT, load_onnx
from scmd.deploy.programs import write_program
from scmd.deploy.promptable import load_promptable, save_classes
from scmd.errors import ScmdError
from scmd.models.limits import SLACK, no_larger_than
from scmd.models.open_clip_files import read_config
from scmd.models.student import StudentConfig, create_backbone
from scmd.models.teacher import TeacherConfig, load_teacher, seen_domains
from scmd.models.weights import load_strictly, read_state_dict

SOURCE = Path(__file__).parents[1] / "src" / "scmd"


def line_of(error: pytest.ExceptionInfo[ScmdError], *messages: object) -> None:
    assert "\n" not in str(error.value)
    for message in messages:
        assert str(message) in str(error.value)


# Nothing is unpickled.

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "torch.jit.load",
                   "torch.hub.load", "torch.package"}  # fmt: skip
UNPICKLING_ERROR = "models/weights.py"
"""Names pickle's error, to say what was wrong with a file that torch refused."""


def findings_in(name: str, source: str) -> list[str]:
    """What in a module could run code that a file holds."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [m for m in modules if m.split(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        named = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in FORBIDDEN_CALLS or called.split(".")[0] in FORBIDDEN_MODULES:
            found.append(called)
        if called.endswith("torch.load") and named.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if called in ("np.load", "numpy.load") and named.get("allow_pickle") != "False":
            found.append("np.load without allow_pickle=False")
        if named.get("allow_pickle", "False") != "False" or named.get("shell", "False") != "False":
            found.append("allow_pickle or shell")
        if named.get("weights_only", "True") != "True" or "trust_remote_code" in named:
            found.append("weights_only=False or trust_remote_code")
    return [f for f in found if (name, f) != (UNPICKLING_ERROR, "pickle")]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.name)
def test_no_source_file_can_run_code_of_a_file(path: Path):
    assert findings_in(path.relative_to(SOURCE).as_posix(), path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import yaml", "torch.load(path)",
        "torch.load(path, weights_only=False)", "np.load(path)", "np.load(p, allow_pickle=True)",
        "eval(text)", "exec(text)", "yaml.load(text)", "joblib.load(path)",
        "subprocess.run(text, shell=True)", "AutoTokenizer.from_pretrained(n, trust_remote_code=1)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source: str):
    assert findings_in("any.py", source)


class Code:
    """What a pickle that runs code holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def hostile(tmp_path: Path) -> bytes:
    """A checkpoint that makes a folder ``ran`` when it is unpickled."""
    torch.save({"weight": Code(tmp_path / "ran")}, tmp_path / "hostile")
    return (tmp_path / "hostile").read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run", method_of(student()), student(), temperature=1.5)


@pytest.fixture
def teacher(clip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip_folder, tmp_path / "teacher"))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights.bin", "weights"])
def test_no_code_in_a_students_weights_runs(tmp_path: Path, hostile: bytes, name: str):
    (tmp_path / name).write_bytes(hostile)
    with pytest.raises(ScmdError) as error:
        create_backbone(StudentConfig("test_efficientnet", tmp_path / name), 32)
    line_of(error, tmp_path / name)
    assert "weights_only=False" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.pth"]
)
def test_no_code_in_a_teachers_folder_runs(teacher: Path, hostile: bytes, name: str):
    (teacher / "open_clip_model.safetensors").unlink()
    (teacher / name).write_bytes(hostile)
    with pytest.raises(ScmdError) as error:
        load_teacher(TeacherConfig(str(teacher)), CLASSES)
    line_of(error, teacher / name)
    assert not (teacher.parent / "ran").exists()


def test_no_code_in_a_models_folder_runs(run: Path, hostile: bytes):
    (run / "model.safetensors").write_bytes(hostile)
    with pytest.raises(ScmdError) as error:
        load(run)
    line_of(error, "it is a torch checkpoint, named .safetensors")
    assert not (run.parent / "ran").exists()


def test_a_configuration_may_not_ask_to_run_code(teacher: Path):
    file = teacher / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    file.write_text(json.dumps(config))
    with pytest.raises(ScmdError) as error:
        load_teacher(TeacherConfig(str(teacher)), CLASSES)
    line_of(error, file, "would run code")


# Weights are checked against the architecture.


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("steps", torch.tensor(0))


def small_state(**changed: Tensor | None) -> dict[str, Tensor]:
    state = Small().state_dict() | {name.replace("__", "."): v for name, v in changed.items()}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"linear__bias": None}, "no linear.bias"),
        ({"more": torch.zeros(1)}, "an unknown more"),
        ({"linear__bias": torch.zeros(3)}, "linear.bias is [3] there and [2] here"),
        ({"linear__bias": torch.zeros(2, dtype=torch.int64)}, "linear.bias is whole numbers there"),
        ({"linear__bias": torch.zeros(2, dtype=torch.bool)}, "linear.bias is boolean there"),
        ({"linear__bias": torch.zeros(2, dtype=torch.complex64)}, "linear.bias is complex there"),
        ({"steps": torch.tensor(0.0)}, "steps is floating-point there and whole numbers here"),
        ({"linear__bias": torch.tensor([0, float("nan")])}, "linear.bias holds NaN or infinity"),
        ({"linear__bias": torch.tensor([0, float("inf")])}, "linear.bias holds NaN or infinity"),
        (
            {"linear__bias": torch.tensor([0, 1e300], dtype=torch.float64)},
            "linear.bias holds NaN or infinity",
        ),
    ],
)
def test_weights_that_are_not_the_architectures_are_errors(
    tmp_path: Path, changed: dict[str, Any], message: str
):
    file = tmp_path / "weights.safetensors"
    save_file(small_state(**changed), file)
    with pytest.raises(ScmdError) as error:
        load_strictly(Small(), read_state_dict(file), file)
    line_of(error, file, message)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(tmp_path: Path, precision: torch.dtype):
    module, file = Small(), tmp_path / "weights.safetensors"
    save_file(small_state(linear__bias=torch.tensor([0.5, 2], dtype=precision)), file)
    load_strictly(module, read_state_dict(file), file)
    assert module.linear.bias.tolist() == [0.5, 2.0]


def lying(start: int, end: int) -> bytes:
    """safetensors whose header says that a tensor lies there, with 8 bytes behind it."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [start, end]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 8, b"\xff" * 64, lying(0, 4), lying(0, 80), lying(4, 12), lying(8, 0),
        lying(0, 8)[:-1], lying(0, 8) + b"\0", (10**12).to_bytes(8, "little") + b"{}",
        b"\x80\x04.", b"PK\x03\x04",
    ],
)  # fmt: skip
def test_damaged_and_lying_files_are_errors(tmp_path: Path, content: bytes):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    with pytest.raises(ScmdError) as error:
        read_state_dict(file)
    line_of(error, file, "cannot be read as weights")


def test_a_folder_is_no_weight_file(tmp_path: Path):
    with pytest.raises(ScmdError) as error:
        read_state_dict(tmp_path)
    line_of(error, tmp_path, "no such weight file")


@pytest.mark.parametrize(
    "value", [torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta"), [1.0]]
)
def test_what_is_no_plain_tensor_is_an_error(tmp_path: Path, value: Any):
    torch.save({"a": value}, tmp_path / "weights.pt")
    with pytest.raises(ScmdError) as error:
        read_state_dict(tmp_path / "weights.pt")
    line_of(error, tmp_path / "weights.pt")


# Descriptions may not ask for more than the weights hold.


def build(make: Callable[[], Any]) -> None:
    with no_larger_than(1000, "a.json"):
        make()


def test_a_network_is_stopped_before_it_takes_memory():
    made: list[int] = []

    def a_billion_small_parts() -> None:
        for _ in range(10**9):
            made.append(nn.Linear(1, 1).in_features)

    with pytest.raises(ScmdError, match=r"a\.json describes a network that is larger"):
        build(a_billion_small_parts)
    assert len(made) < 10_000
    for make in (
        lambda: nn.Linear(10**5, 10**5),
        lambda: torch.zeros(SLACK + 10_000),
        lambda: torch.full((10**5, 10**5), 0.0),
        lambda: torch.randn(size=(10**5, 10**5)),
        lambda: torch.arange(10**12),
        lambda: torch.linspace(0, 1, 10**12),
        lambda: torch.eye(10**6),
    ):
        with pytest.raises(ScmdError, match="is larger"):
            build(make)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "vit_giant_patch14_224"}, "larger than the weights"),
        ({"architecture": "resnet50", "args": ["width=100000"]}, "model.json"),
        ({"architecture": "hf-hub:someone/model"}, "no model 'hf-hub:someone/model'"),
        ({"args": ["checkpoint_path=/etc/passwd"]}, "none of which names a file"),
        ({"image_size": 10**9}, "from 1 to 4,096"),
        ({"classes": []}, "a list of texts"),
        ({"classes": ["cat"] * 4}, "each of them once"),
        ({"mean": [float("nan")] * 3}, "three numbers"),
        ({"mean": [10**400] * 3}, "three numbers"),
        ({"std": [0, 1, 1]}, "above 0"),
        ({"temperature": 1e-300}, "temperature"),
    ],
)
def test_descriptions_of_impossible_students_are_errors(
    run: Path, changed: dict[str, Any], message: str
):
    file = run / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(ScmdError) as error:
        load(run)
    line_of(error, file, message)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("vision_cfg", "width", 10**9, "model_cfg.vision_cfg.width = 1000000000"),
        ("vision_cfg", "width", 10**6, "larger than the weights"),
        ("vision_cfg", "layers", -1, "model_cfg.vision_cfg.layers = -1"),
        ("vision_cfg", "layers", 10**6, "larger than the weights"),
        ("vision_cfg", "image_size", 10**5, "model_cfg.vision_cfg.image_size"),
        ("vision_cfg", "image_size", 64, "visual.positional_embedding is"),
        ("text_cfg", "vocab_size", 10**7, "larger than the weights"),
        ("text_cfg", "context_length", 10**6, "larger than the weights"),
        ("text_cfg", "heads", "two", "model_cfg.text_cfg.heads = 'two'"),
    ],
)
def test_descriptions_of_impossible_teachers_are_errors(
    teacher: Path, part: str, key: str, value: Any, message: str
):
    file = teacher / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][part][key] = value
    file.write_text(json.dumps(config))
    with pytest.raises(ScmdError) as error:
        load_teacher(TeacherConfig(str(teacher)), CLASSES)
    line_of(error, message)


@pytest.mark.parametrize("text", ["3", "[]", "null", "{", "[" * 100_000, '{"model_cfg": []}', "\0"])
def test_a_configuration_that_is_none_is_an_error(teacher: Path, text: str):
    (teacher / "open_clip_config.json").write_text(text)
    with pytest.raises(ScmdError) as error:
        load_teacher(TeacherConfig(str(teacher)), CLASSES)
    line_of(error, teacher / "open_clip_config.json")


def test_every_model_of_open_clip_passes_the_check(tmp_path: Path):
    import open_clip

    file = tmp_path / "open_clip_config.json"
    for name in open_clip.list_models():
        file.write_text(json.dumps({"model_cfg": open_clip.get_model_config(name)}))
        read_config(file)


@pytest.mark.parametrize("card", ["[]", "3", '{"seen": {"domains": "photo"}}', '{"seen": []}', "{"])
def test_a_card_that_is_none_is_an_error(teacher: Path, card: str):
    (teacher / "teacher.json").write_text(card)
    with pytest.raises(ScmdError) as error:
        seen_domains(str(teacher))
    line_of(error, teacher / "teacher.json")


# Weights of the right shape that compute nothing.


def test_a_student_that_computes_no_numbers_is_an_error(run: Path):
    file = run / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.endswith("running_var"))
    save_file(state | {name: -state[name]}, file)  # finite, and its root is not
    with pytest.raises(ScmdError) as error:
        load(run)
    line_of(error, file, "computes NaN or infinity")


def test_a_teacher_that_computes_no_numbers_is_an_error(teacher: Path):
    file = teacher / "open_clip_model.safetensors"
    save_file(load_file(file) | {"logit_scale": torch.tensor(1000.0)}, file)
    with pytest.raises(ScmdError) as error:
        load_teacher(TeacherConfig(str(teacher)), CLASSES)
    line_of(error, "computes NaN or infinity")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"projection.weight": torch.zeros(16, 7)}, "projection.weight is [16, 7] there"),
        ({"projection.weight": torch.tensor(0.0)}, "projection.weight is [] there"),
        ({"log_scale": torch.zeros(3)}, "log_scale is [3] there"),
        ({"log_scale": torch.tensor(1)}, "log_scale is whole numbers there"),
        ({"log_scale": torch.tensor(1000.0)}, "computes NaN or infinity"),
    ],
)
def test_a_text_space_that_does_not_fit_is_an_error(
    teacher: Path, tmp_path: Path, changed: dict[str, Tensor], message: str
):
    method = method_of(student(), "scmd", load_teacher(TeacherConfig(str(teacher)), CLASSES))
    run = save(tmp_path / "scmd", method, student(), method="scmd", teacher=str(teacher))
    save_classes(run, "some", load_promptable(run, ["cat", "a zebra"]))
    save_file(load_file(run / "model.safetensors") | changed, run / "model.safetensors")
    with pytest.raises(ScmdError) as error:
        load_promptable(run, "some")
    line_of(error, run / "model.safetensors", message)


# An exported model.


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported")
    run = save(folder / "run", method_of(student()), student(), temperature=1.5)
    write_program(load(run), "onnx", folder / "model.onnx")
    description = {"format": FORMAT, "student": json.loads((run / "model.json").read_text())}
    (folder / "preprocessing.json").write_text(json.dumps(description))
    load_onnx(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("student"), "is damaged: 'student'"),
        (lambda d: d["student"].update(image_size=10**9), "image_size"),
        (lambda d: d["student"].update(classes=["cat"]), "does not fit"),
        (lambda d: d["student"].update(temperature=0), "temperature"),
    ],
)
def test_an_exported_models_description_is_checked(
    exported: Path, tmp_path: Path, change: Callable[[dict], Any], message: str
):
    shutil.copytree(exported, tmp_path / "own")
    description = json.loads((exported / "preprocessing.json").read_text())
    change(description)
    (tmp_path / "own" / "preprocessing.json").write_text(json.dumps(description))
    with pytest.raises(ScmdError) as error:
        load_onnx(tmp_path / "own")
    line_of(error, message)
