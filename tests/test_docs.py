"""What people read: links lead somewhere, tables are the recorded ones, snippets run."""

import re

import documents
import jax
import numpy as np
import pytest

from bbo.models import create
from bbo.noise import configured
from bbo.pruning import criteria
from bbo.pruning.recovery import by_name
from bbo.settings import catalog
from experiments.presets import PRESETS

EXPERIMENTS = documents.ROOT / "docs/experiments.md"
TABLE = r"<!-- table: (\S+), (.*?) -->\n(.*?)\n<!-- end of table -->"
DOCUMENTS = pytest.mark.parametrize("document", documents.DOCUMENTS, ids=documents.name_of)


@DOCUMENTS
def test_tables_are_those_of_the_records(document):
    """That these are made of the recorded runs is tested with experiments/report.py."""
    text = documents.text_of(document)
    tables = re.findall(TABLE, text, re.S)
    assert len(tables) == text.count("<!-- table:") == text.count("<!-- end of table -->")
    for record, heading, table in tables:
        recorded = documents.text_of(document.parent / record)
        assert f"# {heading}\n\n{table}\n" in recorded, f"{record} has another {heading}"


def test_some_documents_have_tables():
    with_tables = [path for path in documents.DOCUMENTS if "<!-- table:" in path.read_text()]
    assert documents.RESULTS in with_tables and len(with_tables) >= 2


@DOCUMENTS
def test_links_lead_somewhere(document):
    text = documents.text_of(document)
    for link in documents.links(text):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        assert target.exists(), link
        if anchor:
            assert anchor in documents.anchors(documents.text_of(target)), link


def test_every_page_is_linked_from_the_first():
    linked = {
        link.partition("#")[0] for link in documents.links(documents.text_of(documents.README))
    }
    pages = {f"docs/{path.name}" for path in documents.DOCS} - {"docs/speed.md"}
    assert pages <= linked
    assert "speed.md" in documents.links(documents.text_of(EXPERIMENTS))


TABLES = (
    *(catalog.REGULARISERS, catalog.CRITERIA, catalog.RECOVERIES, catalog.MODELS),
    *(configured.MAKERS, criteria.FUNCTIONS, by_name.FUNCTIONS, create.BUILDERS),
)


@pytest.fixture
def run():
    """Runs all snippets of a page one after the other; gives their names.

    What they enter in the tables of names is taken out again.
    """
    before = [dict(table) for table in TABLES]

    def execute(page):
        names: dict = {}
        for snippet in documents.blocks(documents.text_of(documents.ROOT / page), "python"):
            exec(compile(snippet, page, "exec"), names)
        return names

    yield execute
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def test_every_page_with_snippets_is_run_here():
    pages = [path.name for path in documents.DOCS if documents.blocks(path.read_text(), "python")]
    here = documents.text_of(documents.ROOT / "tests/test_docs.py")
    assert len(pages) == 4
    assert [page for page in pages if f'run("docs/{page}")' not in here] == []


def test_a_sweep_is_a_list_of_runs(run):
    names = run("docs/clusters.md")
    assert names["SCRIPT"] == "experiments.run"
    assert len(list(names["runs"]())) == 6


def test_channels_of_any_function_are_removed(run, capsys):
    names = run("docs/smaller-networks.md")
    whole = names["function"](names["weights"], names["x"])
    np.testing.assert_array_equal(names["logits"], whole)
    shown = capsys.readouterr().out.splitlines()
    shapes = "{'first': (2, 2), 'second': (2, 2)}"
    assert shown[0] == shapes and shapes in shown[1:]
    assert "Channels that are zero and stay: none" in shown
    assert shown[-1] == "(4,)"  # statistics of four channels
    assert "first 3 [('first', 1), ('second', 0)]" in shown
    assert (names["halved"] == 5 + 6 + 7 + 8).all()
    kept = names["shrunk"].variables["first"]
    np.testing.assert_array_equal(kept, (np.eye(8) * np.arange(1, 9))[:, 4:])
    assert any(line.startswith("left: 50.0% of the multiply-adds") for line in shown)
    page = documents.text_of(documents.ROOT / "docs/smaller-networks.md")
    assert page.count(f"# {shapes}") == 2


def test_noise_pruning_and_recovery_in_a_program(run):
    names = run("docs/in-your-program.md")
    shapes = jax.tree.map(np.shape, names["small"].variables["params"])
    assert [shapes[name]["kernel"] for name in ("Conv_0", "Conv_1")] == [
        (3, 3, 1, 8),
        (3, 3, 8, 16),
    ]
    pruned = names["model"].apply(names["mended"], names["images"])
    np.testing.assert_allclose(names["logits"], pruned, rtol=0, atol=1e-5)
    assert names["shares"]["units_kept"] == 0.5
    images = names["images"]
    raised = names["noisy_at"](names["variables"]["params"], jax.random.key(0), 0.5)
    kernel = names["variables"]["params"]["Conv_1"]["kernel"]
    assert images.shape == (32, 8, 8, 1) and (raised["Conv_1"]["kernel"] != kernel).any()


def test_names_of_ones_own_go_through_a_run(run):
    names = run("docs/extending.md")
    curve = names["result"].curve
    assert set(curve["criterion"]) == {"largest"} and curve["error"].isna().all()
    assert set(curve["recovery"]) == {"none", "first_batch"} and set(curve["method"]) == {
        "gaussian"
    }
    for snippet in documents.blocks(
        documents.text_of(documents.ROOT / "docs/extending.md"), "python"
    ):
        assert len(snippet.splitlines()) < 30


def test_the_settings_of_a_page_are_those_that_exist():
    rows = re.findall(r"^\| `--(\w+)` \| (.*) \|$", documents.text_of(EXPERIMENTS), re.M)
    named = {name: set(re.findall(r"`([a-z]\w*)`", text)) for name, text in rows}
    assert named["noise"] == set(catalog.REGULARISERS)
    assert named["criterion"] == set(catalog.CRITERIA)
    assert named["recovery"] == set(catalog.RECOVERIES)
    assert named["dataset"] == set(catalog.DATASETS)
    assert named["scope"] == set(catalog.SCOPES)
    assert named["granularity"] == set(catalog.UNITS)
    presets = documents.text_of(EXPERIMENTS).partition("## Presets")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| ", presets, re.M)
    assert set(listed) == {name for name in PRESETS if "/" not in name}
    relatives = len(catalog.REGULARISERS) - 2  # but for none and Batch Bridgeout
    assert relatives == 10 and "Ten relatives" in documents.text_of(documents.README)
    assert len(catalog.RECOVERIES) == 4 and "Three recoveries" in documents.text_of(
        documents.README
    )
