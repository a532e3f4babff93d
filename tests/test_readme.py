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


def test_the_first_screen_says_what_the_study_of_the_recipe_holds():
    record = (ROOT / "experiments/results/recipe_study/summary.md").read_text(encoding="utf-8")
    heading = "### Test accuracy (%), each method with its best recovery: filters removed"
    lines = record.partition(f"{heading}\n\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    places = [cells[0].index(share) for share in ("0 %", "50 %", "70 %")]
    means = {row[0]: [row[place].partition(" ")[0] for place in places] for row in cells[2:]}
    ours, plain, rival = means["recipe"], means["none"], means["CrAM+"]
    sentence = (
        f"has {ours[0]} % right with nothing removed, {ours[1]} % without half of its filters and "
        f"{ours[2]} % without 70 % of them; plain training {plain[0]}, {plain[1]} and {plain[2]} "
        f"%, CrAM+ {rival[0]}, {rival[1]} and {rival[2]} %"
    )
    assert sentence in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
