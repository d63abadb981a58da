"""What ``scmd tables`` prints, in every format, and what it refuses to put side by side."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hand_made import record, scored, write_comparison
from markdown_it import MarkdownIt
from rich.console import Console

from scmd.cli import main
from scmd.errors import ScmdError
from scmd.protocol.dry_run import print_plan
from scmd.protocol.formats import Table, number, percent, render
from scmd.protocol.plan import PlannedRun
from scmd.protocol.present import TablesConfig, tables_of
from scmd.protocol.records import Record, read_runs
from scmd.protocol.statistics import estimate_mean

MARKDOWN = MarkdownIt("commonmark").enable("strikethrough")
ROWS = {"zero-shot": 0.9, "erm": 0.5, "kd": 0.7}
AWKWARD = ("50%_a&b|c", "[bold]x[/y]", "#$^~{}\\", "*a* `b` &lt;", "<b>_c_\\|")


def records(targets=("art", "photo"), trials=2, rows=ROWS, **changes: Any) -> list:
    return [
        record(label, accuracy + trial / 100 + place / 10, target=target, trial=trial, **changes)
        for label, accuracy in rows.items()
        for place, target in enumerate(targets)
        for trial in range(trials)
    ]


@pytest.fixture
def out(tmp_path) -> Path:
    return write_comparison(tmp_path / "out", records())


def tables(*folders: Path, **changes: Any) -> str:
    return tables_of(TablesConfig(folders, **changes))


def test_all_tables_in_text(out):
    text = tables(out)
    for title in ("pictures: accuracy", "pictures: difference from erm", "pictures: gap closed"):
        assert title in text
    assert re.search(r"kd +70\.5 ± 0\.5 +80\.5 ± 0\.5 +75\.5 ± 0\.5 \(69\.1 – 81\.9\) +2$", text, re.M)  # noqa: E501 # fmt: skip
    assert re.search(r"kd +\+0\.50 +\+0\.50 +\+0\.50$", text, re.M)
    assert re.search(r"kd +4 +\+20\.0 ", text)
    assert "training-domain validation" in text
    assert "every class" not in text
    assert "accuracy of every class" in tables(out, per_class=True)
    assert "CHEATING" in tables(out, selection="oracle")


def cells_of_markdown(line: str) -> list[str]:
    """Between bars before which no backslash stands that is not escaped itself."""
    return re.findall(r"((?:\\.|[^|\\])*)\|", line.removeprefix("|"))


def rows_of_markdown(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [
        [
            [re.sub(r"\\(\W|_)", r"\1", cell.strip()) for cell in cells_of_markdown(line)]
            for line in block.splitlines()
        ]
        for block in blocks
    ]


def rows_of_latex(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"\\begin{tabular}{(.*?)}\n(.*?)\\end{tabular}", text, re.DOTALL)
    parsed = []
    for columns, body in blocks:
        lines = [line.strip() for line in body.splitlines() if line.strip() != r"\hline"]
        assert all(line.endswith(r" \\") for line in lines if line)
        rows = [re.split(r"(?<!\\)&", line[:-3]) for line in lines if line]
        assert {len(row) for row in rows} == {len(columns)}
        parsed.append([[cell.strip() for cell in row] for row in rows])
    return parsed


@pytest.mark.parametrize("name", AWKWARD)
def test_every_format_keeps_every_cell(name):
    table = Table(f"title {name}", ["", name, "b"], [[name, "1.0 ± 2.0", "–"]], ["A note."])
    text = render([table], "text")
    assert text.count(name) == 3
    assert "1.0 ± 2.0" in text
    (rows,) = rows_of_markdown(render([table], "markdown"))
    assert rows[0] == ["", name, "b"]
    assert rows[2] == [name, "1.0 ± 2.0", "–"]
    latex = render([table], "latex")
    (rows,) = rows_of_latex(latex)
    assert rows[1][1:] == [r"1.0 $\pm$ 2.0", "--"]
    unescaped = rows[1][0].replace(r"\textbackslash{}", "\0")
    commands = {r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", "$<$": "<", "$>$": ">"}
    for command, letter in commands.items():
        unescaped = unescaped.replace(command, letter)
    assert not re.search(r"(?<!\\)[%_&#${}]", unescaped)
    assert re.sub(r"\\(.)", r"\1", unescaped).replace("\0", "\\") == name
    assert list(csv.reader(io.StringIO(render([table], "csv")))) == [table.header, *table.rows]


@pytest.mark.parametrize("name", AWKWARD)
def test_nothing_in_a_name_is_markdown(name):
    """What Markdown reads in a title, a cell, a note is what stands there."""
    table = Table(name, ["", name], [["a", "1"]], [name])
    title, _, head, *_, note = render([table], "markdown").rstrip("\n").split("\n")
    for written in (title[2:-2], cells_of_markdown(head)[1].strip(), note):
        tokens = MARKDOWN.parseInline(written)[0].children or []
        assert {token.type for token in tokens} <= {"text", "text_special"}
        assert "".join(token.content for token in tokens) == name


def test_what_means_nothing_in_markdown_stays_readable():
    table = Table("art_painting", ["", "p"], [["scmd-no_selection", "< 0.001"]])
    assert "\\" not in render([table], "markdown")


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_names_with_letters_that_cannot_be_printed_stay_in_their_line(form):
    name = "a\nb\tc\x1b[31m"
    table = Table(f"title {name}", ["", name], [[name, "1.0"]], [f"A note on {name}."])
    usual = Table("title a", ["", "a"], [["a", "1.0"]], ["A note on a."])
    text = render([table], form)
    assert text.count("\n") == render([usual], form).count("\n")
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
    assert list(csv.reader(io.StringIO(render([table], "csv")))) == [table.header, *table.rows]


def test_wide_letters_are_not_cut():
    table = Table("t", ["", "写真写真写真写真" * 4], [["写真写真写真写真" * 4, "1"]])
    assert render([table], "text").count("写真写真写真写真" * 4) == 2


def test_markdown_and_latex_say_the_same(out):
    markdown, latex = (tables(out, format=form) for form in ("markdown", "latex"))
    plain = [[r for r in rows if set(r[0]) != {"-"}] for rows in rows_of_markdown(markdown)]
    same = [
        [[c.replace(r"\%", "%").replace(r"$\pm$", "±").replace("--", "–") for c in r] for r in rows]
        for rows in rows_of_latex(latex)
    ]
    assert plain == same
    assert len(plain) == 3
    assert plain[0][0] == ["", "art", "photo", "mean", "trials"]
    caption = re.findall(r"\\caption{(.*)}", latex)[0]
    assert caption.startswith("pictures: accuracy. Accuracy in per cent")
    assert ".." not in caption


def test_csv_has_all_digits_and_one_header_for_all_data(out, tmp_path):
    other = write_comparison(tmp_path / "other", records(data="/data/sketches"))
    text = tables(out, other, format="csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 2 * 3 * 3  # data, methods, targets and their mean
    assert {row["data"] for row in rows} == {"pictures", "sketches"}
    (row,) = (r for r in rows if r["data"] == "pictures" and r["method"] == "kd" and r["target"] == "mean")  # noqa: E501 # fmt: skip
    expected = estimate_mean([0.75, 0.76])
    assert float(row["mean"]) == pytest.approx(expected.mean)
    assert float(row["standard_error"]) == pytest.approx(expected.error, abs=1e-6)
    assert float(row["interval_high"]) == pytest.approx(expected.high, abs=1e-6)
    assert (row["trials"], row["ddof"], row["selection"]) == ("2", "1", "training")
    assert {r["method"] for r in rows if r["reference"] == "true"} == {"zero-shot"}


def test_numbers():
    assert percent(None) == "–"
    assert percent(estimate_mean([0.5])) == "50.0"
    assert percent(estimate_mean([0.5]), interval=True) == "50.0"
    assert percent(estimate_mean([0.5, 0.7])) == "60.0 ± 10.0"
    assert percent(estimate_mean([0.5, 0.7], ddof=0)) == "60.0 ± 7.1"
    assert number(float("nan")) == "–"
    assert number(0.25, 1, sign=True) == "+0.2"


def test_oracle_reports_domainbeds_part_only(tmp_path):
    run = record(lines=[scored(8, 0.9, art=(0.11, 0.22, 0.33))])
    out = write_comparison(tmp_path / "out", [run])
    assert "22.0" in tables(out, selection="oracle", score="whole")
    assert "11.0" in tables(out)
    assert "22.0" in tables(out, score="domainbed")


def test_missing_runs_are_said_and_shown_as_gaps(tmp_path):
    out = write_comparison(tmp_path / "out", records()[:-3], [f"waits{i}" for i in range(5)])
    text = tables(out)
    assert "MISSING: 5 planned runs are not finished (waits0, waits1, waits2 and 2 more)" in text
    assert re.search(r"kd +70\.0 +– +– +0–1$", text, re.M)
    text = tables(out, selection="leave-one-out")
    assert text.count("MISSING: ") == 1 + 5  # every one of erm and kd; the teacher is measured
    many = write_comparison(tmp_path / "many", records(trials=5))
    text = tables(many, selection="leave-one-out")
    assert "MISSING: 10 more." in text


def test_a_folder_without_finished_runs(tmp_path):
    out = write_comparison(tmp_path / "out", [], ["waits"])
    with pytest.raises(ScmdError, match=r"no finished run in .*out. Let scmd protocol finish some"):
        tables(out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScmdError, match="empty holds neither a comparison nor a run"):
        tables(tmp_path / "empty")
    with pytest.raises(ScmdError, match="no folder given"):
        tables()
    out = write_comparison(tmp_path / "erm", records(rows={"erm": 0.5}))
    with pytest.raises(ScmdError, match=r"nothing to show of .*pictures: erm, target art, trial 0"):
        tables(out, selection="leave-one-out")


def test_single_runs_can_be_put_into_a_table(out):
    folders = [path for path in out.iterdir() if path.is_dir() and "zero-shot" not in path.name]
    found, unfinished = read_runs(folders)
    assert {r.label for r in found} == {"erm", "kd"}
    assert not unfinished
    (folders[0] / "summary.json").unlink()
    assert read_runs(folders)[1] == [folders[0].name]


def test_single_runs_of_a_comparison_are_the_rows_that_they_are_there(tmp_path):
    """And not what they are trained by: an ablation is no SCMD, and the teacher no ERM."""
    rows = {"zero-shot": 0.9, "erm": 0.5, "erm@swad": 0.6, "scmd-no-selection": 0.7}
    out = write_comparison(tmp_path / "out", [*records(rows=rows), record("kd", draw=3)])
    found, _ = read_runs([path for path in out.iterdir() if path.is_dir()])
    whole, _ = read_runs([out])
    assert {(r.folder, r.label, r.draw) for r in found} == {
        (r.folder, r.label, r.draw) for r in whole
    }
    assert {r.label for r in found} == {*rows, "kd"}


def test_a_domain_may_be_called_as_the_column_of_means_is(tmp_path):
    out = write_comparison(tmp_path / "out", records(targets=("mean", "photo")))
    text = tables(out)
    assert re.search(r"^ +mean +photo +mean of targets +trials$", text, re.M)
    assert re.search(r"kd +70\.5 ± 0\.5 +80\.5 ± 0\.5 +75\.5 ± 0\.5 \(", text)
    rows = list(csv.DictReader(io.StringIO(tables(out, format="csv"))))
    mean = {row["target"]: row["mean"] for row in rows if row["method"] == "kd"}
    assert mean == {"mean": "0.705000", "photo": "0.805000", "mean of targets": "0.755000"}


def test_a_row_that_is_asked_for_and_not_there_is_told(out):
    for option in ("baseline", "teacher"):
        said = f"--{option} irm: no run of it is there. Choose from zero-shot, erm, kd"
        with pytest.raises(ScmdError, match=re.escape(said)):
            tables(out, **{option: "irm"})


@pytest.mark.parametrize("done", ["{}", "[]", '{"seconds": "long"}', "half"])
def test_a_dry_run_names_a_damaged_file(done, out):
    made = record("erm")
    run = PlannedRun("erm", made.config, 0)
    (out / run.name).mkdir()
    (out / run.name / "done").write_text(done)
    with pytest.raises(ScmdError, match=rf"{re.escape(run.name)}.done is damaged: "):
        print_plan([run], out, Console(quiet=True))


def test_bad_options(out):
    with pytest.raises(ScmdError, match="ddof = 2: give 0 or 1"):
        tables(out, ddof=2)
    with pytest.raises(ScmdError, match=r"no method 'emr'. Did you mean 'erm'"):
        tables(out, baseline="emr")
    with pytest.raises(ScmdError, match=r"no method 'zeroshot'. Did you mean 'zero-shot'"):
        tables(out, teacher="zeroshot")
    with pytest.raises(ScmdError, match="'all' is not a single method"):
        tables(out, baseline="all")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 9}, r"training.steps: 5000 -> 9 \(erm, kd\)"),
        ({"average": "ema"}, r"average.average: 'sma' -> 'ema' \(erm, kd\)"),
        ({"student": "resnet18"}, r"student.name: .*'resnet18'"),
        ({"draw": 1}, r"draws of hyper-parameters: 1 for erm; 2 for kd"),
        ({"hparams": {"lr": 0.5}}, r"draws of hyper-parameters: 1 for erm; 2 for kd"),
    ],
)
def test_runs_that_are_not_like_for_like_are_refused(tmp_path, changes, said):
    runs = [record("erm"), record("erm", trial=1), record("kd")]
    student = changes.pop("student", None)
    other = record("kd", trial=1, **changes)
    if student:
        config = other.config
        config = replace(config, student=replace(config.student, name=student))
        other = replace(other, config=config)
    out = write_comparison(tmp_path / "out", [*runs, other])
    with pytest.raises(ScmdError, match=rf"not like for like: .*{said}.* with --mix"):
        tables(out)
    for form in ("text", "markdown", "latex"):
        text = tables(out, mix=True, format=form)
        assert "NOT LIKE FOR LIKE: " in text
    assert re.search(f"NOT LIKE FOR LIKE: {said}", tables(out, mix=True))


def test_an_average_that_a_label_names_may_differ(tmp_path):
    runs = [record("erm@swad"), record("erm"), record("kd"), record("kd@none", trial=1)]
    assert "erm@swad" in tables(write_comparison(tmp_path / "out", runs))
    named = [record("erm@swad"), record("erm@ema")]
    assert "erm@ema" in tables(write_comparison(tmp_path / "named", named))


def test_what_is_meant_to_differ_may(tmp_path):
    """Method, hyper-parameters in each its draws, domain, seed; of the teacher, its student."""
    runs = [
        record("erm", draw=0), record("erm", draw=1, hparams={"lr": 0.1}),
        record("kd", draw=0), record("kd", draw=1, hparams={"lambda1": 0.1}),
        record("erm", target="photo", trial=3), record("zero-shot", steps=9, average="ema"),
        record("kd", also=("photo",)),
    ]  # fmt: skip
    assert "kd" in tables(write_comparison(tmp_path / "out", runs))


def test_another_teacher_than_the_students_is_refused(tmp_path):
    zero_shot = record("zero-shot")
    teacher = replace(zero_shot.config.teacher, name="embedded")
    other = replace(zero_shot, config=replace(zero_shot.config, teacher=teacher))
    out = write_comparison(tmp_path / "out", [other, record("erm")])
    with pytest.raises(ScmdError, match=r"teacher.name: .* -> 'embedded' \(erm, zero-shot\)"):
        tables(out)


def seen(run: Record, view: Any) -> Record:
    """The run, with another view of the teacher."""
    config = run.config
    return replace(run, config=replace(config, teacher=replace(config.teacher, view=view)))


def test_what_the_teacher_was_asked_about_is_told(tmp_path):
    """Of students; zero-shot, it is asked about clean images anyway."""
    runs = [record("erm"), record("kd"), seen(record("zero-shot"), "clean")]
    assert "kd" in tables(write_comparison(tmp_path / "alike", runs))
    out = write_comparison(tmp_path / "out", [*runs, seen(record("kd", trial=1), "clean")])
    with pytest.raises(ScmdError, match=r"teacher.view: 'augmented' -> 'clean' \(erm, kd\)"):
        tables(out)


def test_a_teacher_that_has_seen_a_target_is_told(tmp_path):
    runs = [*records(), record("kd", target="art", trial=7)]
    for run in runs:
        if run.label != "erm":
            run.summary["teacher"] = {"name": "mine", "fitted_on_domains": ["photo", "sketch"]}
    text = tables(write_comparison(tmp_path / "out", runs))
    said = "NOT UNSEEN: the teacher of zero-shot, kd was fitted on images of photo."
    assert text.count(said) == 2  # under the accuracies, and where they are compared with it
    assert "images of art" not in text


def test_several_data_sets_each_have_their_tables(out, tmp_path):
    """They need not be alike: a budget may depend on the data."""
    other = write_comparison(tmp_path / "other", records(data="/data/sketches", steps=9))
    text = tables(out, other)
    assert "pictures: accuracy" in text
    assert "sketches: accuracy" in text


def test_the_command_writes_a_file(out, tmp_path, capsys):
    file = tmp_path / "table.csv"
    assert main(["tables", str(out), "--format", "csv", "--out", str(file)]) == 0
    assert file.read_text() == tables(out, format="csv")
    assert main(["tables", str(out), "--format", "markdown"]) == 0
    assert capsys.readouterr().out.strip() == tables(out, format="markdown").strip()
    assert main(["tables", str(tmp_path / "nothing")]) == 2
    assert "holds neither a comparison nor a run" in capsys.readouterr().err
