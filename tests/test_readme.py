"""The README shows the recorded run, and nothing else."""

import pathlib
import re

from bbo import report

ROOT = pathlib.Path(__file__).parents[1]


def test_tables_are_those_of_the_records():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = re.findall(
        r"<!-- table: (\S+) -->\n```\n(.*?)\n```\n<!-- end of table -->", text, re.S
    )
    assert tables
    for record, table in tables:
        assert table == report.curve_table(report.read_curve(ROOT / record))


def test_every_linked_file_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link
