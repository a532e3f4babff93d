"""What people read shows the recorded tables, and nothing else."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "experiments/results/README.md")
TABLE = r"<!-- table: (\S+), (.*?) -->\n(.*?)\n<!-- end of table -->"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_tables_are_those_of_the_records(document):
    """That these are made of the recorded runs is tested with experiments/report.py."""
    text = document.read_text(encoding="utf-8")
    tables = re.findall(TABLE, text, re.S)
    assert tables and len(tables) == text.count("<!-- table:")
    for record, heading, table in tables:
        recorded = (document.parent / record).read_text(encoding="utf-8")
        assert f"# {heading}\n\n{table}\n" in recorded, f"{record} has another {heading}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_every_linked_file_exists(document):
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (document.parent / link).exists(), link
