"""The numbers of a report against formulas, on runs that are written and not trained."""

import math

import numpy as np
import pytest
from studies import STEPS, config, record, write_run, write_simple

from lsam_jax.experiments.config.paper_results import Row
from lsam_jax.experiments.report.numbers import accuracy, equal_time, groups
from lsam_jax.experiments.report.numbers.run_cost import CostScale
from lsam_jax.experiments.report.numbers.study import TableSpec, read_study
from lsam_jax.experiments.statistics import holm, paired, spread

T_975 = 4.302652729749464  # Student's t with 2 degrees of freedom
ACCURACIES = {"sgd": (0.70, 0.72, 0.71), "sam": (0.73, 0.74, 0.75), "lsam": (0.71, 0.74, 0.72)}


def spec(*names, published=None):
    rows = tuple(Row(name, name.upper(), (published or {}).get(name, {})) for name in names)
    return TableSpec("table1", "Table 1", "Methods", "", "the paper", rows)


def by_hand(values, baseline):
    """Mean, interval and p of three pairs; Student's distribution function is known for n = 3."""
    d = [a - b for a, b in zip(values, baseline, strict=True)]
    mean = sum(d) / 3
    error = math.sqrt(sum((x - mean) ** 2 for x in d) / 2) / math.sqrt(3)
    t = abs(mean) / error
    return mean, mean - T_975 * error, mean + T_975 * error, 1 - t / math.sqrt(2 + t * t)


def test_spread_is_mean_and_sample_deviation():
    found = spread([1.0, 2.0, 6.0])
    assert found.mean == 3.0
    np.testing.assert_allclose(found.std, math.sqrt((4 + 1 + 9) / 2))
    assert spread([0.5]) == (0.5, None, 1)


def test_paired_difference_interval_and_p_are_those_of_the_formulas():
    ours, theirs = (0.75, 0.71, 0.78), (0.70, 0.68, 0.71)
    found = paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    np.testing.assert_allclose(found[:4], by_hand(ours, theirs), rtol=1e-9)
    assert found.n == 3
    assert found.mean > 0


def test_pairs_are_of_one_seed_whatever_the_order():
    ours = {7: 0.78, 0: 0.75, 3: 0.71, 5: 0.1}
    theirs = {0: 0.70, 3: 0.68, 7: 0.71, 4: 0.9}
    expected = by_hand((0.75, 0.71, 0.78), (0.70, 0.68, 0.71))
    np.testing.assert_allclose(paired(ours, theirs)[:4], expected, rtol=1e-9)


def test_there_is_no_test_of_two_seeds_or_of_equal_differences():
    assert paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 1.0}) == (1.5, None, None, None, 2)
    equal = paired({0: 0.3, 1: 0.4, 2: 0.5}, {0: 0.1, 1: 0.2, 2: 0.3})
    assert equal[1:] == (None, None, None, 3)
    assert math.isnan(paired({0: 1.0}, {1: 1.0}).mean)


def test_holm_adjusts_by_rank_and_never_falls():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.6, 0.7]) == [None, 1.0, 1.0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Three methods of three seeds, SGD of three lengths."""
    place = tmp_path_factory.mktemp("plain")
    write_simple(place / "sgd", "sgd", ACCURACIES["sgd"])
    write_simple(place / "sam", "sam", ACCURACIES["sam"], cost=2.0)
    write_simple(place / "lsam", "layerwise_sam", ACCURACIES["lsam"], cost=1.3)
    write_simple(place / "long", "sgd", (0.72, 0.72, 0.73), epochs=6)
    write_simple(place / "longer", "sgd", (0.74, 0.745, 0.73), epochs=8)
    return read_study(place)


def named(study, *methods):
    """The study's groups by their methods, and lengths of SGD."""
    found = {}
    for group in study.groups.values():
        key = group.config["method"]
        found[key if key != "sgd" or group.passes == 4 else f"sgd{group.passes}"] = group
    return [found[method] for method in methods]


def test_a_table_has_last_epochs_differences_and_their_significance(plain):
    names = [group.name for group in named(plain, "sgd", "sam", "layerwise_sam")]
    published = {names[1]: {"accuracy": 92.64, "std": 0.4}}
    table_spec = spec(*names, "absent", published=published)
    lines = accuracy.lines(plain, table_spec)
    sam, lsam = (by_hand(ACCURACIES[name], ACCURACIES["sgd"]) for name in ("sam", "lsam"))
    np.testing.assert_allclose(lines[1].difference[:4], sam, rtol=1e-9)
    np.testing.assert_allclose(lines[1].p, min(1, 2 * min(sam[3], lsam[3])), rtol=1e-9)
    np.testing.assert_allclose(lines[2].p, max(2 * sam[3], lsam[3]), rtol=1e-9)
    table = accuracy.accuracy_table(table_spec, lines)
    assert table.columns[:2] == ("method", "seeds")
    assert table.rows[0][1:6] == ("3", "71.00 ± 1.00", "–", "baseline", "–")  # noqa: RUF001
    low, high = (f"{100 * x:+.2f}".replace("-", "\N{MINUS SIGN}") for x in sam[1:3])
    assert table.rows[1][1:6] == ("3", "74.00 ± 1.00", "92.64 ± 0.4", "+3.00", f"{low} to {high}")
    assert table.rows[1][6] == f"{sam[3]:.3f}"
    assert table.rows[3][1:3] == ("0", "no finished run")
    assert "2 comparisons were made" in table.caption
    assert "never the best" in table.caption


def test_runs_of_another_length_are_told_apart_in_the_table(plain):
    names = [group.name for group in named(plain, "sgd", "sgd6", "sam")]
    table_spec = spec(*names)
    table = accuracy.accuracy_table(table_spec, accuracy.lines(plain, table_spec))
    assert table.columns[1] == "passes"
    assert [row[1] for row in table.rows] == ["4", "6", "4"]
    assert [row[4] for row in table.rows] == ["baseline", "+1.33", "+3.00"]


def test_cost_is_the_mean_over_all_steps(tmp_path):
    steps, costs = (10, 30, 40), (1.0, 2.0, 1.5)
    for method, seed in (("sgd", 0), ("layerwise_sam", 0)):
        records = [
            record(i + 1, step=step, cost=1.0 if method == "sgd" else cost)
            for i, (step, cost) in enumerate(zip(steps, costs, strict=True))
        ]
        write_run(tmp_path / method, config(method, 3, seed), records)
    study = read_study(tmp_path)
    sgd, lsam = named_by_method(study)
    by_hand_total = (10 * 1.0 + 20 * 2.0 + 10 * 1.5) / 40
    np.testing.assert_allclose(CostScale(sgd).total(lsam), by_hand_total)
    np.testing.assert_allclose(CostScale(sgd).so_far(lsam, lsam.runs[0]), [0.25, 1.25, 1.625])
    measured = CostScale(sgd, {lsam.name: {"mean": 1.2}, sgd.name: {"mean": 1.0}})
    np.testing.assert_allclose(measured.so_far(lsam, lsam.runs[0]), [0.3, 0.9, 1.2])


def test_a_run_that_perturbs_at_its_end_costs_nothing_more_before(tmp_path):
    write_simple(tmp_path / "sgd", "sgd", (0.7,))
    write_simple(tmp_path / "late", "sam", (0.7,), perturb_from=0.75)
    sgd, late = named_by_method(read_study(tmp_path))
    measured = CostScale(sgd, {late.name: {"mean": 1.8}})
    np.testing.assert_allclose(measured.so_far(late, late.runs[0]), [0.25, 0.5, 0.75, 1.2])


def named_by_method(study):
    return sorted(study.groups.values(), key=lambda g: g.config["method"] != "sgd")


@pytest.mark.parametrize(
    ("cost", "passes", "enough"),
    [(1.0, 4, True), (1.3, 6, True), (1.5, 6, True), (1.505, 6, True), (1.6, 8, True),
     (2.0, 8, True), (2.5, 8, False)],
)  # fmt: skip
def test_sgd_is_given_at_least_the_methods_cost(cost, passes, enough, tmp_path):
    for length in (8, 4, 6):
        write_simple(tmp_path / f"sgd{length}", "sgd", (0.7,), epochs=length)
    write_simple(tmp_path / "lsam", "layerwise_sam", (0.7,), cost=cost)
    study = read_study(tmp_path)
    (lsam,) = named(study, "layerwise_sam")
    sgd = groups.baselines(study.groups.values(), lsam.config)
    assert [group.passes for group in sgd] == [4, 6, 8]
    found = CostScale(sgd[0], sgd=sgd).pair(lsam)
    assert (found.sgd.passes, found.is_enough) == (passes, enough)
    np.testing.assert_allclose([found.cost, found.sgd_cost], [cost, passes / 4])


def test_equal_time_compares_with_the_longer_run(plain):
    names = [group.name for group in named(plain, "sgd", "sam", "layerwise_sam")]
    lines = accuracy.lines(plain, spec(*names))
    (scale,) = equal_time.scales(plain, lines)
    table = equal_time.table(scale, lines)
    sam, lsam = table.rows
    assert sam[1:6] == ("2.00", "74.00 ± 1.00", "8 passes", "2.00", "73.83 ± 0.76")
    assert sam[6] == "+0.17"
    assert lsam[3:6] == ("6 passes", "1.50", "72.33 ± 0.58")
    _, low, high, p = by_hand(ACCURACIES["lsam"], (0.72, 0.72, 0.73))
    shown = [f"{100 * x:+.2f}".replace("-", "\N{MINUS SIGN}") for x in (low, high)]
    assert lsam[7:9] == (" to ".join(shown), f"{p:.3f}")


def test_measured_costs_choose_the_run_too(plain):
    sgd, lsam = named(plain, "sgd", "layerwise_sam")
    longer = groups.baselines(plain.groups.values(), sgd.config)
    scale = CostScale(sgd, {lsam.name: {"mean": 1.7}}, longer)
    found = scale.pair(lsam)
    assert (found.sgd.passes, found.sgd_cost) == (8, 2.0)  # SGD's own ratio is 1
    assert not scale.knows(named(plain, "sam")[0])


def test_passes_count_not_evaluations(tmp_path):
    write_simple(tmp_path / "sgd", "sgd", (0.7,), epochs=4, passes=3)
    write_simple(tmp_path / "long", "sgd", (0.7,), epochs=2, passes=9)
    short, long = read_study(tmp_path).groups.values()
    assert (short.passes, long.passes) == (12, 18)
    np.testing.assert_array_equal(short.runs[0].passes, [3, 6, 9, 12])
    assert CostScale(short).total(long) == 18 * STEPS / (12 * STEPS)


def test_the_last_epoch_counts_and_not_the_best(tmp_path):
    found = [record(i + 1, validation_accuracy=a) for i, a in enumerate((0.5, 0.9, 0.6))]
    write_run(tmp_path / "run", config("sgd", 3), found)
    study = read_study(tmp_path)
    table = accuracy.accuracy_table(study.tables[0], accuracy.lines(study, study.tables[0]))
    assert table.rows[0][2] == "60.00"
