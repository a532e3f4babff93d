"""What people read first: two screens, whose numbers are those of the records."""

import json
import math
import re

import documents
import numpy as np

TEXT = documents.text_of(documents.README)
SENTENCES = " ".join(TEXT.split())
RESULTS = documents.ROOT / "experiments/results"


def test_it_has_two_screens():
    assert len(TEXT.splitlines()) <= 150
    assert TEXT.count("![") == 1 and len(documents.blocks(TEXT, "python")) == 1


def test_the_first_screen_says_what_the_study_of_the_recipe_holds():
    record = (RESULTS / "recipe_study/summary.md").read_text(encoding="utf-8")
    heading = "### Test accuracy (%), each method with its best recovery: filters removed"
    lines = record.partition(f"{heading}\n\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    places = [cells[0].index(share) for share in ("0 %", "50 %", "70 %", "80 %", "90 %")]
    means = {row[0]: [row[place].partition(" ")[0] for place in places] for row in cells[2:]}
    ours, plain, rival = means["recipe"], means["none"], means["CrAM+"]
    sentence = (
        f"has {ours[0]} % right with nothing removed, {ours[1]} % without half of its filters and "
        f"{ours[2]} % without 70 % of them; plain training {plain[0]}, {plain[1]} and {plain[2]} "
        f"%, CrAM+ {rival[0]}, {rival[1]} and {rival[2]} %"
    )
    assert sentence in SENTENCES
    assert all(float(rival[i]) > float(ours[i]) for i in (3, 4))  # at 80 and 90 % CrAM+ is better
    assert "at 80 and 90 % CrAM+ is better" in SENTENCES


def test_the_time_of_make_run_is_that_of_its_record():
    lines = (RESULTS / "digits/runs.jsonl").read_text(encoding="utf-8").splitlines()
    names = ("seconds_to_train", "seconds_to_prune_and_evaluate")
    seconds = sum(json.loads(line)["summary"][name] for line in lines for name in names)
    minutes = round(seconds / 2 / 60)  # two at a time
    assert f"about {minutes} minutes on two CPU cores" in SENTENCES


def test_its_example_trains_prunes_and_removes(capsys):
    (example,) = documents.blocks(TEXT, "python")
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    small = names["small"]
    shapes = {
        name: leaf["kernel"].shape for name, leaf in sorted(small.variables["params"].items())
    }
    assert list(shapes.values()) == [(3, 3, 1, 16), (3, 3, 16, 32), (32, 10)]
    whole = names["model"].apply(small.masked, names["images"])
    np.testing.assert_allclose(names["logits"], whole, rtol=0, atol=1e-6)
    loss = -np.log(np.exp(whole)[np.arange(4), np.arange(4)] / np.exp(whole).sum(1)).mean()
    assert abs(loss - math.log(10)) < 1  # nothing went to infinity
    assert "params/layers_2/kernel     64     32       32" in capsys.readouterr().out


def test_it_tells_how_to_install_for_every_machine():
    lines = [words for words in documents.commands(TEXT) if words[0] == "pip"]
    wanted = [re.search(r"\[(.*)\]", words[-1]) for words in lines]
    assert [found and found[1] for found in wanted] == [None, "cuda13", "tpu"]
