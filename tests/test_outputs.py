"""Predictions, written down."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from scmd.deploy.outputs import Format, Prediction, write_predictions
from scmd.errors import ScmdError

PREDICTIONS = [
    Prediction(Path("a, b.png"), (("élan", 0.75), ("cat", 0.2))),
    Prediction(Path("broken.png"), (), "broken.png cannot be decoded"),
]


def test_predictions_as_csv(tmp_path: Path):
    out = tmp_path / "out.csv"
    write_predictions(PREDICTIONS, "csv", out)
    with out.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["file", "rank", "class", "probability", "error"],
            ["a, b.png", "1", "élan", "0.750000", ""],
            ["a, b.png", "2", "cat", "0.200000", ""],
            ["broken.png", "", "", "", "broken.png cannot be decoded"],
        ]


def test_predictions_as_json_lines(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    write_predictions(iter(PREDICTIONS), "jsonl", out)
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == [
        {
            "file": "a, b.png",
            "class": "élan",
            "probability": 0.75,
            "top": [{"class": "élan", "probability": 0.75}, {"class": "cat", "probability": 0.2}],
        },
        {"file": "broken.png", "error": "broken.png cannot be decoded"},
    ]


def test_predictions_go_to_the_standard_output_by_default(capsys: pytest.CaptureFixture[str]):
    write_predictions(PREDICTIONS, "csv")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "file,rank,class,probability,error"
    assert lines[1] == '"a, b.png",1,élan,0.750000,'
    assert len(lines) == 4


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path):
    with pytest.raises(ScmdError, match="cannot be written"):
        write_predictions(PREDICTIONS, "csv", tmp_path / "nowhere" / "out.csv")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_breaks_leaves_no_file_behind(tmp_path: Path, form: Format):
    def breaking():
        yield PREDICTIONS[0]
        raise ScmdError("broken")

    out = tmp_path / "out"
    with pytest.raises(ScmdError, match="broken"):
        write_predictions(breaking(), form, out)
    assert list(tmp_path.iterdir()) == []


MORE = [
    *PREDICTIONS,
    Prediction(Path("unsure.png"), (("cat", 0.4000004), ("élan", 0.3)), abstained=True),
    Prediction(Path(os.fsdecode(b"gr\xe9.png")), (), os.fsdecode(b"gr\xe9.png is no image")),
]


def read(file: Path, form: Format) -> list[dict[str, Any]]:
    """The rows of any format, with None where there is nothing."""
    if form == "parquet":
        return pq.read_table(file).to_pylist()
    if form == "csv":
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [{k: v or None for k, v in row.items()} for row in csv.DictReader(opened)]
        types = {"rank": int, "probability": float}
        return [{k: types.get(k, str)(v) if v else None for k, v in r.items()} for r in rows]
    found = []
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        row = {name: line.get(name) for name in ("file", "rank", "class", "probability", "error")}
        ranked = [{**row, **top, "rank": rank} for rank, top in enumerate(line.get("top", ()), 1)]
        found += ranked or [row]
    return found


def test_the_formats_agree(tmp_path: Path):
    forms: tuple[Format, ...] = ("csv", "jsonl", "parquet")
    for form in forms:
        assert write_predictions(iter(MORE), form, tmp_path / form)
    csv_rows, json_rows, parquet_rows = (read(tmp_path / form, form) for form in forms)
    assert csv_rows == json_rows == parquet_rows
    assert [(r["file"], r["rank"], r["class"], r["probability"]) for r in csv_rows] == [
        ("a, b.png", 1, "élan", 0.75),
        ("a, b.png", 2, "cat", 0.2),
        ("broken.png", None, None, None),
        ("unsure.png", None, None, 0.4),
        ("gr\\xe9.png", None, None, None),
    ]
    assert [r["error"] is None for r in csv_rows] == [True, True, False, True, False]


def test_a_long_list_and_an_empty_one_are_tables_too(tmp_path: Path):
    out = tmp_path / "out.parquet"
    many = (Prediction(Path(f"{i}.png"), (("cat", 1.0),)) for i in range(10_001))
    assert write_predictions(many, "parquet", out)
    table = pq.read_table(out)
    assert table["file"].to_pylist() == [f"{i}.png" for i in range(10_001)]
    assert not write_predictions([], "parquet", out)
    empty = pq.read_table(out)
    assert empty.num_rows == 0
    assert empty.schema == table.schema


def test_parquet_needs_a_file():
    with pytest.raises(ScmdError, match=r"--out FILE\.parquet"):
        write_predictions(PREDICTIONS, "parquet")


def test_whether_any_image_could_be_read(tmp_path: Path):
    out = tmp_path / "out.csv"
    assert not write_predictions(PREDICTIONS[1:], "csv", out)
    assert write_predictions(MORE[2:3], "csv", out)  # abstained from


def test_a_carriage_return_in_a_name_is_no_end_of_a_row(tmp_path: Path):
    """Readers take one that is not quoted for it."""
    odd = Prediction(Path('a\r "b"\n.png'), (("cat\rdog", 0.75),))
    write_predictions([odd], "csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        text = file.read()
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == [
        ['a\r "b"\n.png', "1", "cat\rdog", "0.750000", ""]
    ]
    assert "\r\n" not in text
