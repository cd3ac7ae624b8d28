"""What a configuration takes, keeps and refuses."""

import dataclasses
import json

import numpy as np
import pytest

from lsam_jax.experiments.config.config import Config, base_optimizer
from lsam_jax.experiments.config.methods import METHODS, complete, method
from lsam_jax.experiments.config.presets import PRESETS, preset


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("sgd", "sl_sam")])
def test_a_step_that_perturbs_nothing_costs_a_gradient(name):
    options = complete(name, {})
    assert method(name, options).price(None, []) == 1


@pytest.mark.parametrize("name", ["sam", "layerwise_sam", "stale"])
@pytest.mark.parametrize("options", [{"rise": 0.1}, {"rise_share": 0.4}])
def test_a_radius_that_sets_itself_replaces_the_presets(name, options):
    config = preset("noisy-digits-resnet8").configure(name, **options)
    found = dict(config.options)
    assert options.items() <= found.items()
    assert "rho" not in found
    with pytest.raises(ValueError, match=r"rho=0.3 is a radius.*give one or the other"):
        preset("noisy-digits-resnet8").configure(name, rho=0.3, **options)
    assert dict(preset("noisy-digits-resnet8").configure(name).options)["rho"] > 0


def test_a_radius_that_sets_itself_goes_with_every_preset():
    for one in PRESETS.values():
        for name in one.methods:
            if name != "sgd":
                assert "rho" not in dict(one.configure(name, rise=0.1).options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sam", {"rise": -1}, "^rise=-1: "),
        ("sam", {"rise": "far"}, "^rise='far': "),
        ("sam", {"rise_share": 2}, "^rise_share=2: "),
        ("sam", {"rise_share": 0.4, "rise_cap": 0}, "^rise_share=0.4, rise_cap=0: "),
        ("sam", {"rise_cap": 0.2}, "^rise_cap=0.2: "),
        ("sam", {"rise": 0.1, "rise_share": 0.4}, "^rise=0.1, rise_share=0.4: "),
        ("layerwise_sam", {"budget": -1}, "^budget=-1: "),
        ("sl_sam", {"budget": -1}, "^budget=-1: "),
        ("sam", {"perturb_every": 0}, "^perturb_every=0: "),
        ("look_sam", {"perturb_every": 2}, r"^perturb_every=2: .* \(look_sam\)"),
        ("sam", {"perturb_from": "late"}, "perturb_from must be .*'late'"),
        ("ae_sam", {"perturb_from": 0.5}, r"^perturb_from=0.5: .* \(ae_sam\)"),
        ("sam", {"perturb_from": 2.5}, "perturb_from must be at least 0 and below 1; .*=2.5"),
    ],
)
def test_what_the_library_says_of_an_option_begins_with_its_name(name, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Config(method=name, options=options)


def test_a_run_too_short_to_perturb_in_its_last_part_is_refused():
    with pytest.raises(ValueError, match=r"^perturb_from=0\.9: .*before the end of the run"):
        method("sam", {"rho": 0.1, "perturb_from": 0.9}, steps=4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "esam"}, "accumulate=4 is not for method='esam'.*leave it out"),
        ({"method": "functional_sam"}, "accumulate=4 is not for method='functional_sam'"),
        (
            {"accumulate": 8, "options": {"ascent_batch": 0.125}},
            "ascent_batch=0.125 climbs on 4 images, which accumulate=8 does not divide.*smaller",
        ),
        ({"options": {"ascent_batch": 0.125}}, "ascent_batch=0.125 climbs on 4 images.*at least"),
        ({"options": {"m": 4}}, "m=4 climbs on 4 images, which accumulate=4"),
    ],
)
def test_a_batch_that_cannot_be_taken_in_parts_is_named(changes, words):
    usual = {"method": "sam", "batch_size": 32, "accumulate": 4}
    with pytest.raises(ValueError, match=words):
        Config(**usual | changes)
    Config(**usual, options={"ascent_batch": 0.25})


def test_sequences_within_options_come_back_as_they_were():
    names = ("block2/conv1/kernel", "head/kernel")
    config = Config(method="layerwise_sam", options={"k": None, "selection": names})
    stored = json.loads(json.dumps(config.to_json()))
    assert stored == config.to_json()
    again = Config.from_json(stored)
    assert again == config
    assert hash(again) == hash(config)
    assert dict(again.options)["selection"] == names


def test_the_learning_rate_falls_once_for_each_share():
    with pytest.raises(ValueError, match=r"decay_at=\(0.5, 0.5\) must hold shares.*each once"):
        Config(decay_at=(0.5, 0.5))
    usual = Config(decay_at=(0.5, 0.6), learning_rate=1.0, momentum=0.0, weight_decay=0.0)
    for steps in (2, 20):  # of two both shares are the same step
        tx = base_optimizer(dataclasses.replace(usual), steps)
        params = {"w": np.float32(0)}
        state = tx.init(params)
        for _ in range(steps):
            update, state = tx.update({"w": np.float32(1)}, state, params)
        np.testing.assert_allclose(update["w"], -0.01, rtol=1e-5)
