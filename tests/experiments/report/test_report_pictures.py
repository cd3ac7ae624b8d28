"""What the pictures of a report show, read off the figures before they are files."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from studies import LAYERS, SOME, STEPS, write_simple, write_study

from lsam_jax.experiments import plotting
from lsam_jax.experiments.report.figures import (
    costs,
    curves,
    distances,
    landscapes,
    sharpness,
)
from lsam_jax.experiments.report.figures import layers as layer_pictures
from lsam_jax.experiments.report.numbers import accuracy as tables
from lsam_jax.experiments.report.numbers import equal_time
from lsam_jax.experiments.report.numbers.study import read_study

ACCURACIES = {"sgd": (0.70, 0.72, 0.71), "lsam": (0.71, 0.74, 0.72)}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, in order; none becomes a file."""
    figures = []

    def keep(figure):
        figure.draw_without_rendering()
        figures.append(figure)
        return b""

    for module in (costs, distances, landscapes, plotting, sharpness):
        monkeypatch.setattr(module, "png", keep)
    return figures


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    place = tmp_path_factory.mktemp("plain")
    write_simple(place / "sgd", "sgd", ACCURACIES["sgd"])
    write_simple(place / "lsam", "layerwise_sam", ACCURACIES["lsam"], cost=1.3)
    write_simple(place / "long", "sgd", (0.72, 0.72, 0.73), epochs=8)
    return read_study(place)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    place = tmp_path_factory.mktemp("rich")
    write_study(place, SOME, layers=LAYERS, epochs=8, points=6)
    return read_study(place)


def groups(study):
    return list(study.groups.values())


def short(study):
    return [group for group in groups(study) if group.passes == 4]


def line(axes, label):
    (found,) = [x for x in axes.lines if x.get_label() == label]
    return found


def test_curves_are_means_by_passes_with_the_range_around(plain, drawn):
    figure = curves.learning(short(plain), "curves")
    (canvas,) = drawn
    loss, accuracy, zoom = canvas.axes
    found = line(accuracy, "layer-wise SAM")
    np.testing.assert_array_equal(found.get_xdata(), [1, 2, 3, 4])
    mean = 100 * np.mean(ACCURACIES["lsam"]) * np.arange(1, 5) / 4
    np.testing.assert_allclose(found.get_ydata(), mean)
    np.testing.assert_allclose(line(loss, "layer-wise SAM").get_ydata(), 2 / np.arange(1, 5))
    band = accuracy.collections[1].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band[band > 60].min(), band.max()], [71.0, 74.0])
    assert accuracy.get_xlabel() == "passes over the training images"
    found = line(zoom, "layer-wise SAM")
    np.testing.assert_array_equal(found.get_xdata(), [2, 3, 4])  # three evaluations, at least
    low, high = zoom.get_ylim()
    assert 30 < low < 0.5 * 70  # what the second of four evaluations found
    assert 74 < high < 77
    assert "mean and range over 3 seeds" in figure.caption


def test_runs_of_several_lengths_are_drawn_by_their_share(plain, drawn):
    curves.learning(groups(plain), "curves")
    axes = drawn[0].axes[1]
    assert axes.get_xlabel() == "share of the whole run (%)"
    ends = {x.get_xdata()[-1] for x in axes.lines}
    assert ends == {100.0}
    assert sorted(len(x.get_xdata()) for x in axes.lines) == [4, 4, 8]


def test_a_panel_has_few_methods_and_sgd_in_all_of_them(plain):
    sgd, *_ = groups(plain)
    other = next(group for group in groups(plain) if group.config["method"] == "layerwise_sam")
    many = [sgd, *(dataclasses.replace(other, label=f"method {i}") for i in range(8))]
    found = curves.by_panel(many)
    assert [len(panel) for panel in found] == [6, 4]
    for panel in found:
        assert panel[0][0] is sgd
        for attribute in ("color", "linestyle"):
            styles = [style[attribute] for _, style in panel[1:]]
            assert len(set(styles)) == len(styles)
    assert [group for panel in found for group, _ in panel[1:]] == many[1:]


def test_accuracy_is_drawn_at_the_cost_of_the_run(plain, drawn):
    (spec,) = plain.tables
    found = tables.lines(plain, spec)
    costs.scatter(equal_time.scales(plain, found), groups(plain), "cost")
    (axes,) = drawn[0].axes
    sgd, lsam = axes.containers
    np.testing.assert_allclose(sgd.lines[0].get_xydata(), [[1, 71], [2, 100 * 2.17 / 3]])
    np.testing.assert_allclose(lsam.lines[0].get_xydata(), [[1.3, 100 * 2.17 / 3]])
    low, high = axes.get_ylim()
    deviation = 100 * np.std(ACCURACIES["lsam"], ddof=1)
    assert low < 70  # 71 - 1
    assert high > 217 / 3 + deviation


def test_curves_at_equal_time_are_by_cost(plain, drawn):
    (spec,) = plain.tables
    (scale,) = equal_time.scales(plain, tables.lines(plain, spec))
    costs.at_equal_time(scale, groups(plain), "time")
    (axes,) = drawn[0].axes
    np.testing.assert_allclose(line(axes, "layer-wise SAM").get_xdata(), 1.3 * np.arange(1, 5) / 4)
    np.testing.assert_allclose(line(axes, "SGD, 8 passes").get_xdata(), np.arange(1, 9) / 4)


def test_heat_maps_have_the_mean_norms_of_the_layers(plain, drawn):
    layer_pictures.heat_maps(short(plain), "maps")
    first = drawn[0].axes[0]
    (mesh,) = first.collections
    expected = np.repeat((0.1 + 0.1 * np.arange(len(LAYERS)))[:, None], 4, axis=1)
    np.testing.assert_allclose(mesh.get_array(), expected)
    assert isinstance(mesh.norm, LogNorm)
    top, *_, bottom = [tick.get_text() for tick in first.get_yticklabels()]
    assert (top, bottom) == ("stem", "head")
    assert first.yaxis_inverted()  # the input is at the top


def test_perturbations_are_shares_of_the_steps(plain, rich, drawn):
    assert layer_pictures.perturbations([short(plain)[0]], "bars") is None  # SGD
    layer_pictures.perturbations(short(plain), "bars")
    (axes,) = drawn[0].axes  # SGD has no panel
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, 3 / STEPS)
    figure = layer_pictures.perturbations(groups(rich), "bars")
    assert "every layer in every step: LookSAM." in figure.caption


def test_landscapes_are_cut_at_one_height_for_all(rich, drawn):
    views = landscapes.views(groups(rich))
    assert [view.run.seed for view in views] == [0] * len(views)
    list(landscapes.whole_model(views[:2], "model"))
    list(landscapes.surfaces(views[:2], "layers"))
    landscapes.contours(views[0], "contours")
    model, layers, contours = drawn
    spaces = [axes for axes in (*model.axes, *layers.axes) if axes.name == "3d"]
    assert len(spaces) == 2 + 2 * landscapes.LAYERS
    assert {axes.get_zlim() for axes in spaces} == {(0.0, 4.5)}
    for axes in spaces:
        assert axes.collections[0].get_clim() == (0, 4.5)
    titles = [axes.get_title() for axes in contours.axes if axes.get_title()]
    assert titles == [layer.removesuffix("/kernel") for layer in LAYERS]


def test_the_first_direction_is_upwards(drawn, rich, monkeypatch):
    """Entry [i, j] is i steps along the first direction: rows of a matrix, so y."""
    (view, *_) = landscapes.views(groups(rich))
    steps = np.arange(3.0)
    loss = np.array([[0.0, 0, 0], [1, 1, 1], [2, 2, 2]])  # grows along the first direction
    around = view.around._replace(steps=steps, layers=("one",), loss=loss[None])
    landscapes.contours(view._replace(around=around), "contours")
    surfaces = []
    monkeypatch.setattr(Axes3D, "plot_surface", lambda self, *grid, **_: surfaces.append(grid))
    list(landscapes.surfaces([view._replace(around=around)], "surfaces"))
    filled = drawn[0].axes[0].collections[0]
    path = filled.get_paths()[1].vertices  # losses between two levels: a band across
    assert np.ptp(path[:, 0]) == 2
    assert np.ptp(path[:, 1]) < 0.5
    ((x, y, z),) = surfaces
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(x, z.T)


def test_sharpness_is_the_mean_over_seeds(rich, drawn):
    measured = sharpness.measured(groups(rich))
    runs = measured[0].runs
    table = sharpness.table(measured)
    tops = [run.sharpness["top_eigenvalue"] for run in runs]
    assert table.rows[0][:2] == ("SGD", "3")
    assert table.rows[0][3] == f"{np.mean(tops):.2f} ± {np.std(tops, ddof=1):.2f}"
    assert "0.05" in table.caption
    sharpness.by_layer(measured, "layers")
    rise, top = (axes.images[0].get_array() for axes in drawn[0].axes[:2])
    layer = LAYERS[2]
    for shown, key in ((rise, "ball_rise"), (top, "top_eigenvalue")):
        expected = np.mean([run.sharpness["layers"][layer][key] for run in runs])
        np.testing.assert_allclose(shown[0, 2], expected)


def test_distances_of_many_runs_are_averaged_by_method(drawn):
    runs = [f"{name}/seed{seed}" for name in "abcdefg" for seed in (0, 1)]
    relative = np.zeros((14, 14))
    relative[0, 2], relative[1, 3] = 1.0, 3.0  # a and b, of one seed each
    relative[0, 3] = 100.0  # of different seeds: not counted
    relative[0, 1] = relative[1, 0] = 7.0  # a's two seeds
    found = {"runs": runs, "relative": relative.tolist(), "from_start": list(range(14))}
    figure = distances.heat_map(found, {"a": "A"}, "distances")
    values = drawn[0].axes[0].images[0].get_array()
    assert values.shape == (7, 7)
    assert (values[0, 1], values[0, 0]) == (2.0, 7.0)
    assert "means by method" in figure.caption
    assert drawn[0].axes[0].get_xticklabels()[0].get_text() == "A"
    assert distances.from_start(found, {"a": "A"}).rows[0] == ("A", "2", "0.50 ± 0.71")


def test_few_distances_are_shown_one_by_one(drawn):
    found = {"runs": ["a/seed0", "b/seed0"], "relative": [[0, 1.25], [1.25, 0]]}
    distances.heat_map(found, {"a": "A"}, "distances")
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.00", "1.25", "1.25", "0.00"]
    assert axes.get_yticklabels()[0].get_text() == "A, seed0"


def test_a_picture_is_a_png_of_few_colours():
    assert plotting.png(Figure(figsize=(2, 1))).startswith(b"\x89PNG")


def test_equal_shares_reach_nowhere():
    shares = np.tile([15 / 600, 35 / 600], (3, 1))
    mean = shares.mean(axis=0)  # rounding puts it beside them, which bars do not take
    assert mean[0] > shares[0, 0]
    assert mean[1] < shares[0, 1]
    mean, reach = plotting.mean_and_reach(shares)
    np.testing.assert_allclose(mean, shares[0])
    assert (reach >= 0).all()
    np.testing.assert_allclose(reach, 0, atol=1e-15)
