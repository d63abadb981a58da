"""The numbers of the page on scaling are those that its script prints."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_are_what_the_script_prints(capsys):
    script = runpy.run_path(str(ROOT / "scripts" / "protocol_cost.py"))
    script["main"](script["Settings"]())
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    page = (ROOT / "docs" / "scaling.md").read_text().splitlines()
    assert len(printed) == 19
    assert [line for line in printed if line not in page] == []
