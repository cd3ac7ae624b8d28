"""The frontier: radii that are chosen, runs that are noted, and shares of SAM's gain."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scipy import stats

from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.frontier import costs, page, picture, regimes, study
from lsam_jax.experiments.frontier.contenders import CONTENDERS, SAM, SGD, Contender
from lsam_jax.experiments.frontier.ledger import Key, Ledger
from lsam_jax.experiments.frontier.regimes import REGIMES, TUNING_SEEDS
from lsam_jax.experiments.frontier.results import results
from lsam_jax.experiments.statistics import kept
from lsam_jax.experiments.training.loop import fit
from lsam_jax.experiments.training.step import build

FEW = tuple(c for c in CONTENDERS if c.name in (SGD, SAM, "sam-1/8"))


@pytest.mark.parametrize(
    ("grid", "best", "expected"),
    [
        ((1.0, 2.0, 4.0), 2.0, 2.0),
        ((1.0, 2.0, 4.0), 8.0, 8.0),  # goes on beyond its end
        ((1.0, 2.0, 4.0), 1000.0, 32.0),  # three times at most
        ((1.0, 2.0, 4.0), 0.5, 0.5),
        ((0.2, 0.4, 0.7), 1.2, 1.2),  # 0.7 * 0.7 / 0.4, to two digits
        ((0.1,), 5.0, 0.1),  # no ratio to go on by
    ],
)
def test_a_grid_goes_on_where_its_best_is_at_an_end(grid, best, expected):
    assert study.choose(grid, lambda rho: -abs(np.log(rho / best))) == expected


def test_of_equal_radii_the_smaller_is_chosen():
    assert study.choose((1.0, 2.0, 3.0), lambda rho: float(rho > 1)) == 2.0


def test_fieller_s_interval_holds_the_shares_that_a_t_test_does_not_refute():
    rng = np.random.default_rng(0)
    sgd = dict(enumerate(rng.normal(0.75, 0.02, 5)))
    sam = {s: x + rng.normal(0.2, 0.02) for s, x in sgd.items()}
    method = {s: x + rng.normal(0.15, 0.03) for s, x in sgd.items()}
    found = kept(method, sgd, sam)
    a = np.array([method[s] - sgd[s] for s in range(5)])
    b = np.array([sam[s] - sgd[s] for s in range(5)])
    shares = np.linspace(0, 2, 20001)
    held = [s for s in shares if stats.ttest_1samp(a - s * b, 0).pvalue > 0.05]
    np.testing.assert_allclose([found.low, found.high], [held[0], held[-1]], atol=2e-4)
    assert found.share == pytest.approx(a.mean() / b.mean())


def test_a_gain_that_is_not_there_has_no_share_with_an_interval():
    sgd = {0: 0.9, 1: 0.91, 2: 0.92}
    assert kept(sgd, sgd, {0: 0.91, 1: 0.9, 2: 0.92}).low is None
    assert np.isnan(kept(sgd, sgd, sgd).share)


def _fill(directory, name="digits-40", seeds=5):
    """A ledger in which SAM has 20 points more than SGD, and on an eighth 18."""
    ledger = Ledger(directory / f"{name}.jsonl")
    level = {SGD: 0.75, SAM: 0.95, "sam-1/8": 0.93}
    for one in FEW:
        for rho in one.radii:
            for seed in TUNING_SEEDS:
                result = {"accuracy": [level[one.name]], "noisy_accuracy": 0.5, "config": "x"}
                ledger.add(Key(one.name, rho, seed, True), result)
        for seed in range(seeds):
            last = level[one.name] + 0.003 * np.sin(3 * seed + ord(one.name[1]) + len(one.name))
            rho = one.radii[0] if one.radii else None
            cost = {SGD: 1.0, SAM: 2.0}.get(one.name, 1.125)
            row = {"accuracy": [last + 0.01, last], "fitted": 0.6, "cost": cost, "config": "x"}
            ledger.add(Key(one.name, rho, seed, False), row)
    return ledger


def test_a_ledger_is_read_again(tmp_path):
    _fill(tmp_path)
    found = {one.contender.name: one for one in results(Ledger(tmp_path / "digits-40.jsonl"), {})}
    assert list(found) == [SGD, SAM, "sam-1/8"]
    assert found[SGD].kept.share == 0 and found[SAM].kept.share == 1
    assert found["sam-1/8"].kept.share == pytest.approx(0.9, abs=0.02)
    assert found["sam-1/8"].best.mean - found["sam-1/8"].last.mean == pytest.approx(0.01)
    assert (found["sam-1/8"].rho, found["sam-1/8"].cost) == (0.7, 1.125)
    assert found[SAM].p < 1e-3 and found[SGD].p is None


def test_a_broken_line_and_another_configuration_are_named(tmp_path):
    ledger = _fill(tmp_path)
    with pytest.raises(ValueError, match=r"sgd \(rho=None, seed=0\) by another configuration"):
        ledger.check(Key(SGD, None, 0, False), "y")
    with ledger.file.open("a") as lines:
        lines.write('{"contender": "sg')
    with pytest.raises(ValueError, match=r"line 28 of .* is not a run of the frontier"):
        Ledger(ledger.file)


def test_the_page_says_what_was_found(tmp_path):
    _fill(tmp_path)
    measured = {"costs": {name: {"median": x} for name, x in ((SGD, 1.0), ("sam-1/8", 1.07))}}
    (tmp_path / "digits-40-costs.json").write_text(json.dumps(measured))
    assert page.write(tmp_path) == tmp_path / "frontier.html"
    text = (tmp_path / "frontier.md").read_text()
    assert "SAM on 1/8 keeps most of the gain, 90 (" in text, text
    assert "(costs: measured or, where they are not, counted), SAM on 1/8 keeps" in text
    assert "at 1.07, measured. What was looked for, 90%, surely above 75%, is reached at a " in text
    assert "| SAM on 1/8 | 0.7 | 0.7: 93.0 / 50.0, 1.2:" in text
    assert (tmp_path / "frontier.png").read_bytes()[:4] == b"\x89PNG"


def test_costs_are_said_to_be_counted_where_nothing_is_measured(tmp_path, monkeypatch):
    _fill(tmp_path)
    drawn = []
    monkeypatch.setattr(page, "png", lambda figure: drawn.append(figure) or b"\x89PNG")
    for measured, words, label in (
        ((), "at 1.12, counted. What was looked for, 90%, surely above 75%, is reached at a counted"
         " cost", "(counted)"),
        ((SGD, SAM), "(costs: measured or, where they are not, counted)",
         "(measured; hollow: counted)"),
        ((SGD, SAM, "sam-1/8"), "(costs: measured)", "(measured)"),
    ):  # fmt: skip
        costs_of = {name: {"median": 1.1 if name != SAM else 1.8} for name in measured}
        (tmp_path / "digits-40-costs.json").write_text(json.dumps({"costs": costs_of}))
        page.write(tmp_path)
        assert words in (tmp_path / "frontier.md").read_text()
        assert drawn[-1].axes[0].get_xlabel() == f"cost of training, plain = 1 {label}"


def test_a_contender_without_a_measured_cost_is_timed(tmp_path, monkeypatch):
    _fill(tmp_path)
    asked = []

    def measure(regime, ledger, data):
        asked.append([one.name for one in costs.to_time(regime, ledger)])
        return {"costs": {SGD: {}, SAM: {}}, "left_out": ["sam-1/8"]}

    monkeypatch.setattr(costs, "measure", measure)
    file = tmp_path / "digits-40-costs.json"
    file.write_text(json.dumps({"costs": {SGD: {}, SAM: {}}}))
    for _ in range(2):  # the second time all are there, or known to have none
        study.measure_once(REGIMES["digits-40"], tmp_path, None)
        assert asked == [[SGD, SAM, "sam-1/8"]]


def test_without_a_gain_the_page_says_so(tmp_path):
    ledger = _fill(tmp_path / "a")
    lines = ledger.file.read_text().replace('"sgd"', '"x"').replace('"sam"', '"sgd"')
    (tmp_path / "digits-0.jsonl").write_text(lines.replace('"x"', '"sam"').replace("0.9", "0.7"))
    page.write(tmp_path)
    assert "So SAM's gain is not told from nothing" in (tmp_path / "frontier.md").read_text()


def test_a_window_s_cost_is_that_of_its_two_parts():
    measured = {"costs": {SGD: {"median": 1.0}, SAM: {"median": 1.9}}}
    found = costs.of_steps(measured, CONTENDERS)
    assert found["last-fifth"] == pytest.approx(0.8 + 0.2 * 1.9)
    assert found["sgd-x2"] == 1.0


def test_names_are_unique_and_all_configurations_make_sense():
    assert len({one.name for one in CONTENDERS}) == len(CONTENDERS)
    for regime in REGIMES.values():
        for one in regime.contenders:
            config = regime.configure(one, one.radii[0] if one.radii else None, seed=3)
            assert (config.seed, config.label_noise) == (3, regime.config.label_noise)
            assert config.epochs == one.length * regime.config.epochs


def test_who_takes_part_by_which_radii_and_seeds():
    assert REGIMES["digits-0"].contenders == CONTENDERS
    cifar = [one.name for one in REGIMES["cifar-40"].contenders]
    assert cifar[:2] == [SGD, SAM] and sorted(cifar) == sorted(regimes.FEW)
    vit = {one.name: one for one in REGIMES["vit-40"].contenders}
    assert REGIMES["vit-40"].plain == vit[SGD].label == "AdamW"
    assert vit[SAM].radii == (0.03, 0.06, 0.1) and vit["layers-4-paper"].radii == (0.1,)
    assert "only-last-third" not in vit and "layers-4-low" not in vit and "every-5" in vit
    assert [one.name for one in REGIMES["cifar-0"].contenders] == [
        *("sgd", "sam", "sam-1/8", "layers-4-1/8", "sam-1/8-rise", "layers-4-1/8-rise"),
        *("stale-rise", "momentum", "sam-1/8-rise-0.1"),
    ]
    mirrored, plain = REGIMES["cifar-mirrored-0"], REGIMES["cifar-0"]
    assert mirrored.contenders == (*plain.contenders[:2], *plain.contenders[4:7], regimes.GENTLE)
    assert mirrored.config.augment and mirrored.config.crop == 0 and not plain.config.augment
    more = REGIMES["digits-40"]
    assert more.seeds_of(vit["momentum"]) == tuple(range(10))
    assert more.seeds_of(vit["every-5"]) == more.seeds == tuple(range(5))


def test_labels_of_the_picture_stand_apart_and_inside_of_it():
    assert picture.apart([10, 50], 0, 160) == [10, 50]
    assert picture.apart([10, 10], 0, 160) == [10, 20]
    assert picture.apart([150, 150, 152], 0, 160) == [135, 145, 155]
    many = picture.apart([160] * 40, 0, 160)
    assert min(np.diff(many)) > 3.8 and many[0] > 0 and many[-1] < 160


def test_the_transformer_s_table_says_adamw(tmp_path):
    _fill(tmp_path, "vit-40")
    page.write(tmp_path)
    text = (tmp_path / "frontier.md").read_text()
    assert "30 passes: AdamW 7" in text and "| over AdamW |" in text
    assert "SGD" not in text


@pytest.mark.slow
def test_runs_are_made_once(tmp_path, monkeypatch, capsys):
    whole = REGIMES["digits-40"]
    regime = whole._replace(
        config=dataclasses.replace(whole.config, epochs=1, passes=1, images=700),
        seeds=(0,),
        more_seeds=(),
        contenders=(FEW[0], Contender("sam", "SAM", "sam", {}, (0.2, 0.4))),
    )
    monkeypatch.setattr(study, "MOST_STEPS", 0)
    data = datasets.digits()
    ledger = study.run(regime, tmp_path, data)
    assert ledger.tuned_radii(SAM) == [0.2, 0.4] and len(ledger.file.read_text().splitlines()) == 6
    (final,) = ledger.finals(SAM, "rho").values()
    assert final == study.choose((0.2, 0.4), lambda r: ledger.mean_tuned(SAM, r, TUNING_SEEDS))
    before = ledger.file.read_bytes()
    monkeypatch.setattr(study, "build", None)  # nothing more is run
    study.run(regime, tmp_path, data)
    assert ledger.file.read_bytes() == before
    changed = regime._replace(config=dataclasses.replace(regime.config, learning_rate=0.2))
    with pytest.raises(ValueError, match="by another configuration"):
        study.run(changed, tmp_path, data)


@pytest.mark.slow
def test_a_radius_that_stands_in_the_state_changes_nothing():
    task = dataclasses.replace(REGIMES["digits-40"].config, epochs=1, passes=1, images=700)
    config = dataclasses.replace(task, method="sam", options={"rho": 0.4})
    held, prepare = study._held(config)
    again = study._held(dataclasses.replace(config, options={"rho": 0.7}))
    assert held == again[0]  # so that they share a program
    program = build(held)
    runs = [fit(held, program=program, prepare=one) for one in (prepare, again[1])]
    new, other, old = ([*map(np.asarray, _leaves(run))] for run in (*runs, fit(config)))
    jax.tree.map(np.testing.assert_array_equal, new, old)
    assert not np.array_equal(other[-1], old[-1])


def _leaves(run):
    return jax.tree.leaves(run.state.params)


def test_all_data_are_loaded_before_the_first_run(capsys, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(study, "run", lambda *given: ran.append(given))
    words = ["frontier", "--regimes", "digits-40,cifar-40", "--data-dir", str(tmp_path / "none")]
    assert main(["reproduce", *words, "--out", str(tmp_path)]) == 2
    assert "data='cifar10' is not prepared" in capsys.readouterr().err
    assert not ran


def test_the_command_refuses_what_does_not_go_with_it(capsys, tmp_path):
    for words, said in (
        ("frontier table1", "a study of its own"),
        ("frontier --set epochs=2", "--set=epochs=2 does not go with frontier"),
        ("frontier --seeds 3", "--seeds=3 does not go with frontier, whose settings were fixed"),
        ("frontier --scale cpu", "--scale=cpu does not go"),
        ("frontier --preset digits-resnet8", "--preset=digits-resnet8 does not go"),
        ("frontier --weights f.npz", "--weights=f.npz does not go"),
        ("table1 --regimes digits-40", "--regimes=digits-40 is for frontier alone; leave it out"),
        ("frontier --regimes moon", "regime='moon' is not known"),
    ):
        assert main(["reproduce", *words.split(), "--out", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
