"""The program that shows how a step grows, as a user runs it."""

import csv
import os
import subprocess
import sys

import jax
import pytest
from mistakes import check_told
from pytest import approx

from experiments.command_line import program as cli
from experiments.scale.program import FLAGS, main, peaks_from
from experiments.scale.report import communication_text
from experiments.scale.roofline import DATA_SHEETS

PEAKS = ("--peak_flops=1e9", "--bandwidth=1e9", "--link=1e8", "--latency=1e-4")


def run_program(*argv):
    return cli.run_program(main, FLAGS, ["scale", *map(str, argv)])


@pytest.mark.slow
def test_what_it_leaves(tmp_path, capsys):
    out = tmp_path / "new/scale"
    small = ("--model=small_cnn", "--dataset=digits", "--images=100", "--widths=0.25")
    sizes = ("--devices=8,1", "--batch_sizes=16")
    assert run_program(f"--out={out}", *small, *sizes, *PEAKS) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"scale.csv", "scale.md", "scale.png"}
    assert printed.endswith(f"Table:  {out / 'scale.csv'}\nPlot:   {out / 'scale.png'}\n")
    assert (out / "scale.md").read_text() in printed
    assert "link 1e+08 bytes/s, 0.0001 s an exchange; given numbers\n" in printed
    command = "`python -m experiments.scale --model=small_cnn --dataset=digits --images=100 --"
    assert printed.startswith(command) and f"jax {jax.__version__}, jaxlib " in printed
    sums = "17480 gradients + 384 forward + 192 backward + 8 metrics bytes, whatever the batch"
    assert f"Collectives: all-reduce; at width 0.25 {sums}" in printed
    with (out / "scale.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["scaling"], row["devices"], row["batch_size"]) for row in rows] == [
        ("strong", "1", "16"),
        ("strong", "8", "16"),
        ("weak", "1", "16"),
        ("weak", "8", "128"),
    ]
    first = {}
    for row in rows:
        number = {name: float(row[name]) for name in row if row[name] and name not in TEXTS}
        many = number["devices"] > 1
        assert number["macs"] == 286176 * number["batch_size"] / number["devices"]
        assert number["all_reduce_bytes"] == (18064 if many else 0)
        slower = max(number["flops"], number["bytes_accessed"]) / 1e9
        exchanges = (2 * 7 / 8 * 18064 / 1e8 + 9 * 1e-4) if many else 0
        assert number["communication_seconds"] == approx(exchanges, rel=1e-9)
        assert number["step_seconds"] == approx(slower + exchanges, rel=1e-9)
        assert number["communication_share"] == approx(exchanges / (slower + exchanges), rel=1e-9)
        speed = number["batch_size"] / number["devices"] / (slower + exchanges)
        share = speed / first.setdefault(row["scaling"], speed)
        assert number["efficiency"] == approx(share, rel=1e-9)
    assert rows[0]["efficiency"] == "1.0" and 0 < float(rows[1]["efficiency"]) < 1
    # What both need is the same program.
    same = rows[0].keys() - {"scaling"}
    assert {name: rows[0][name] for name in same} == {name: rows[2][name] for name in same}


TEXTS = ("model", "noise", "topology", "scaling", "collectives", "bound")


def test_what_is_not_in_the_closed_form_is_told():
    row = {"devices": 8, "collectives": "all-gather all-reduce", "unexplained_bytes": 4}
    told = communication_text([row])
    assert told == (
        "Collectives: all-gather, all-reduce; these are not the sums of gradients, BatchNorm "
        "statistics and metrics alone"
    )
    assert communication_text([row | {"devices": 1}]) == "Collectives: none"


@pytest.mark.slow
def test_devices_are_made_before_jax_is_loaded(tmp_path):
    code = (
        "from experiments.scale.program import make_devices; make_devices(3);"
        "import jax; print(jax.devices())"
    )
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.count("CpuDevice(id=") == 3, done.stderr


def test_peaks_of_a_data_sheet_with_another_link(tmp_path):
    cli.parse(FLAGS, ["scale", "--peaks=h100", "--dtype=bfloat16", "--link=5e10"])
    peaks = peaks_from(FLAGS)
    assert (peaks.flops, peaks.bandwidth, peaks.link) == (989.4e12, 3.35e12, 5e10)
    assert peaks.latency == 0 and peaks.source.startswith("data sheet of the H100 SXM")
    assert peaks.source.endswith("; link as given")


@pytest.mark.parametrize("pod, rings", [("v5e:1x1", 1), ("v5e:4x4", 2), ("v5p:4x4x4", 6)])
def test_peaks_of_a_pod_are_those_of_its_chip_with_a_link_for_each_ring(pod, rings):
    cli.parse(FLAGS, ["scale", f"--topology={pod}", "--dtype=bfloat16", "--latency=1e-6"])
    peaks, sheet = peaks_from(FLAGS, pod), DATA_SHEETS[f"tpu_{pod[:3]}"]["bfloat16"]
    changed = {"source": "", "link": rings * sheet.link, "latency": 1e-6}
    assert peaks._replace(source="") == sheet._replace(**changed)
    cli.parse(FLAGS, ["scale", "--link=3", "--peak_flops=1", "--bandwidth=2"])
    assert peaks_from(FLAGS, pod)[:3] == (1, 2, 3 * rings)


OUT = "--out=O"
WRONG = {
    (): "out is missing; name a folder for the table",
    (OUT, "--devices=0,2"): "devices is '0,2'; give whole numbers from 1 on",
    (OUT, "--devices=two"): "devices is 'two'; it must be numbers separated by commas",
    (OUT, "--devices="): "devices is ''; ",
    (OUT, "--batch_sizes=1.5"): "batch_sizes is '1.5'; give whole numbers from 2 on",
    (OUT, "--devices=3"): "batch_sizes has 128, which 3 devices cannot share evenly",
    (OUT, "--widths=0"): "width is 0.0; it must be",
    (OUT, "--widths="): "widths is empty; give some",
    (OUT, "--model=vgg"): "model is 'vgg'; it must be one of small_cnn, small_vgg, vgg11",
    (OUT, "--dataset=digits"): "model vgg16 needs images of 32x32 pixels",
    (OUT, "--model="): "model is empty; give some, as in vgg16",
    (OUT, "--noise=batch_bridgout"): "noise is 'batch_bridgout'; it must be one of",
    (OUT, "--steps_per_call=0"): "steps_per_call is 0; it must be",
    (OUT, "--topology=v4:2x2x1"): "topology has 'v4:2x2x1'; give a chip and its grid, as in v5e",
    (OUT, "--topology=v5e:2x2", "--devices=4"): "topology says what devices says too; leave one",
    (OUT, "--topology=v5e:2x2", "--peaks=h100"): "topology says what peaks says too; leave one",
    (OUT, "--link=0"): "link is 0.0; it must be a number > 0",
    (OUT, "--latency=-1"): "latency=-1: -1.0 is not a non-negative number",
    (OUT, "--parallel=pmap", "--dtype=bfloat16"): "pmap cannot compile bfloat16 for CPUs",
    (OUT, "--devices=16", "--peaks=h100"): "devices goes up to 16, but jax sees 8",
}


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_a_mistake_ends_in_one_line_and_writes_nothing(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_program(*argv) == 2
    check_told(capsys, WRONG[argv])
    assert not list(tmp_path.iterdir())
