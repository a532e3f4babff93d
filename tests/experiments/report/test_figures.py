"""The figures of a comparison: what they draw, and how it is told apart."""

import numpy as np
from finished_runs import BASE, make_run, statistics

from bbo.settings.method import settings_of
from experiments.report import figures, program
from experiments.report.finished_runs import Method, find_runs, grouped, points_of
from experiments.report.statistics import curve_statistics


def drawn(curves, **options):
    """The figure of curves from ``make_run``, as ``experiments.report`` makes its table."""
    return figures.comparison_figure(curves, figures.AXES["removed"], title="a title", **options)


def test_the_paper_is_laid_over_filters_of_full_width_only(tmp_path):
    cifar = {"dataset": "cifar10", "model": "vgg16"}
    found, curves = statistics(
        tmp_path, cifar | {"noise": "none"}, cifar | {"noise": "dropout"}, cifar | {"width": 0.125}
    )
    narrow, none, dropout = found
    published, note = program.published_curves(none)
    assert published is not None and "Khan & Stavness 2020" in note
    assert sorted(published["method"].unique()) == ["batch_bridgeout", "dropout", "none"]
    assert published["accuracy_mean"].max() < 100
    assert program.published_curves(narrow) == (
        None,
        "the curves of the paper, of width 1, are left out",
    )
    digits = Method("none", settings_of(BASE), [])
    assert program.published_curves(digits) == (None, "")
    own = curves[curves["width"] == 1]
    noise_of = {group.method: group.settings["noise"] for group in (none, dropout)}
    figure = drawn(own, published=published, noise_of=noise_of)
    panels = figure.get_axes()
    dashed = [[line for line in panel.lines if line.get_linestyle() == "--"] for panel in panels]
    assert [len(lines) for lines in dashed] == [3, 0]  # filters, weights
    colours = {line.get_label(): line.get_color() for line in panels[0].lines}
    assert colours["none, the paper"] == colours["none"] != colours["dropout"]
    assert colours["dropout, the paper"] == colours["dropout"]
    assert len(figure.legends) == 1
    thin, nothing = curves[curves["width"] < 1], own.iloc[:0]
    names = {*program.write_figures([none, dropout], own, nothing, tmp_path)}
    names |= {*program.write_figures([narrow], thin, thin, tmp_path)}
    narrow_names = [f"cifar10_vgg16_width0.125_{name}.png" for name in ("removed", "best")]
    assert names == {"cifar10_vgg16_removed.png", *narrow_names}


def test_an_axis_is_drawn_if_it_shows_something_new(tmp_path):
    _, curves = statistics(tmp_path, {"noise": "none"}, {"noise": "dropout"})
    macs = curves["measure"] == "macs_kept"
    for shift, shown in ((0.0, []), (0.019, []), (0.03, ["macs"])):
        moved = curves.assign(mean=curves["mean"] + shift * macs)
        assert figures.distinct_axes(moved) == ["removed", *shown]
    one = macs & (curves["method"] == "dropout") & (curves["sparsity"] == 0.5)
    assert figures.distinct_axes(curves.assign(mean=curves["mean"] + 0.1 * one))[1:] == ["macs"]
    unknown = curves.assign(mean=curves["mean"].where(curves["measure"] != "achieved_sparsity"))
    assert figures.distinct_axes(unknown) == ["macs"]  # which params show again


def test_a_granularity_that_stays_where_it_is_has_no_panel(tmp_path):
    _, curves = statistics(tmp_path, {"noise": "none"})
    still = (curves["granularity"] == "weight") & (curves["measure"] == "macs_kept")
    moved = curves.assign(mean=curves["mean"].where(~still, 1.0))
    figure = figures.comparison_figure(moved, figures.AXES["macs"], title="a title")
    assert [panel.get_title() for panel in figure.get_axes()] == ["filters, as pruned"]
    nothing = curves.assign(mean=curves["mean"].where(curves["measure"] != "macs_kept", 1.0))
    assert figures.moving(nothing, figures.AXES["macs"]) == ["filter", "weight"]


def test_the_legend_has_the_curves_of_all_panels(tmp_path):
    make_run(tmp_path / "a", noise="none", granularity=("filter",))
    make_run(tmp_path / "b", noise="dropout", granularity=("weight",))
    groups = grouped(find_runs([tmp_path]).runs)
    curves = curve_statistics(points_of(groups))
    (legend,) = drawn(curves).legends
    assert [text.get_text() for text in legend.get_texts()] == ["none", "dropout"]


def test_the_fingerprint_is_of_what_is_drawn(tmp_path):
    _, curves = statistics(tmp_path, {"seed": 0})
    same = figures.fingerprint(drawn(curves))
    assert same == figures.fingerprint(drawn(curves.copy(), noise_of={}))
    other = curves.assign(mean=curves["mean"].where(curves["measure"] != "test_top1", 0.5))
    assert same != figures.fingerprint(drawn(other))


def test_no_two_methods_look_alike():
    styles = figures.styles_of([str(i) for i in range(60)])
    assert len({tuple(style.values()) for style in styles.values()}) == 60
    lines = [(style["color"], style["linestyle"]) for style in styles.values()]
    assert len(set(lines[:21])) == 21 and "--" not in {line for _, line in lines}


def test_a_method_has_one_colour_in_every_figure():
    few, many = (
        figures.styles_of(names)
        for names in (
            ["none", "recipe", "batch_bridgeout"],
            ["shakeout", "dropout rate=0.1", "dropout", "batch_bridgeout", "none q=2", "recipe"],
        )
    )
    assert few["recipe"] == many["recipe"] and few["batch_bridgeout"] == many["batch_bridgeout"]
    assert few["none"] == many["none q=2"]  # by its first word
    colours = {name: style["color"] for name, style in many.items()}
    assert colours["dropout"] == figures.COLOUR_OF["dropout"] != colours["dropout rate=0.1"]
    assert len(set(colours.values())) == 6
    assert {*figures.COLOUR_OF.values()} == {*figures.COLOURS}


def test_an_interval_of_two_runs_is_not_drawn(tmp_path):
    runs = [{"seed": seed, "accuracies": (0.7 + seed / 10, 0.8, 0.5)} for seed in range(3)]
    for count, shown in ((2, 0), (3, 1)):
        _, curves = statistics(tmp_path / str(count), *runs[:count])
        (band,) = drawn(curves).get_axes()[0].collections
        assert len([path for path in band.get_paths() if len(path.vertices)]) == shown
    assert figures.runs_text([2, 2]) == "mean of 2 runs"
    assert figures.runs_text([3, 5, 2]).startswith("mean of 2 to 5 runs, shaded from 3 on: ")


def test_figures_draw_means_and_intervals(tmp_path):
    runs = [{"seed": 0}, {"seed": 1, "accuracies": (0.7, 0.8, 0.5), "failed": 0.5}]
    _, curves = statistics(tmp_path, *runs)
    panel = drawn(curves).get_axes()[0]
    (line,) = panel.lines
    np.testing.assert_allclose(line.get_xydata(), [[0, 80], [50, 80], [60, 50]])
    assert panel.get_xlabel() == "filters removed (%)" and panel.get_ylim() == (0, 102)
    kept = figures.comparison_figure(curves, figures.AXES["macs"], title="").get_axes()[0]
    assert kept.get_xlim()[0] > kept.get_xlim()[1] and "weight" in kept.get_xlabel()
