"""What `lsam-jax list` and `lsam-jax inspect` print."""

import dataclasses
import io
import types

import jax.numpy as jnp
import pytest
from rich.console import Console

import lsam_jax as lsam
from lsam_jax.experiments.cli import listing
from lsam_jax.experiments.config.config import Config


def preset(**changes):
    values = {
        "name": "cifar100-vit-b16-head",
        "source": "Lee, KDD 2024, Table 1 [b], row 4: and much that a list has no room for",
        "config": Config(
            data="oxford_flowers102",
            model="wrn28_10",
            epochs=150,
            batch_size=128,
            decay_at=(2 / 3, 0.9),
            clip_norm=None,
        ),
        "methods": {"sgd": {}, "layerwise_sam": {"k": 4, "rho": 0.1, "normalize": False}},
        "published": {"layerwise_sam": 92.81},
        "assumed": ("images of 32x32 pixels [b]",),
    }
    return types.SimpleNamespace(**{**values, **changes})


def printed(function, *args, width=80, **options):
    console = Console(file=io.StringIO(), width=width)
    for one in function(*args, **options):
        console.print(one)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [line.rstrip() for line in lines]


def test_the_list_has_a_row_for_each_preset():
    small = preset(name="digits", config=Config(epochs=20, batch_size=64), source="this project")
    lines = printed(lambda some: [listing.presets_table(some)], [preset(), small])
    assert lines[0].split() == ["preset", "data", "model", "epochs", "batch", "source"]
    assert lines[2].split()[:5] == [
        "cifar100-vit-b16-head",  # whole, to be copied to a command line
        "oxford_flowers102",
        "wrn28_10",
        "150",
        "128",
    ]
    start = lines[0].index("source")
    source = " ".join(line[start:] for line in lines[2:-1])
    assert source == "Lee, KDD 2024, Table 1 [b], row 4"
    assert lines[-1].split() == ["digits", "digits", "resnet8", "20", "64", "this", "project"]


@pytest.fixture(scope="module")
def program():
    params = {"first": jnp.ones((8, 8)), "last": jnp.ones((8, 2)), "bias": jnp.ones(2)}

    def loss(params, x):
        return jnp.sum(jnp.tanh(x @ params["first"]) @ params["last"] + params["bias"])

    inspection = lsam.inspect(loss, params, jnp.ones((4, 8)))
    sizes = {name: x.size for name, x in params.items()}
    return types.SimpleNamespace(inspection=inspection, sizes=sizes, frozen=0, steps_per_epoch=1390)


def test_an_inspection_says_what_is_run_and_what_it_costs(program):
    lines = printed(listing.outlined, preset(), program)
    text = " ".join(" ".join(lines).split())
    assert text.startswith(f"cifar100-vit-b16-head: {preset().source} assumed: ")
    assert "assumed: images of 32x32 pixels [b]" in text
    settings = dict(line.split() for line in lines if len(line.split()) == 2)
    assert settings["data"] == "oxford_flowers102"
    assert settings["batch_size"] == "128"
    assert settings["decay_at"] == "0.666667,0.9"
    assert settings["clip_norm"] == "none"
    assert settings["random_init"] == "false"
    method = next(line for line in lines if line.startswith("layerwise_sam"))
    assert method.split() == ["layerwise_sam", "k=4,", "rho=0.1,", "normalize=false", "92.81"]
    for layer in program.inspection.layers:
        row = next(line for line in lines if layer.name in line)
        assert f"{layer.cost:.3f}" in row
    assert lines[-2] == "82 parameters, 80 of them (97.6%) in 2 kernels"
    assert lines[-1] == "1,390 steps per epoch, 208,500 in 150 epochs"


def test_a_preset_of_no_paper_has_no_column_for_it(program):
    own = preset(published={}, assumed=())
    text = "\n".join(printed(listing.outlined, own, program))
    assert "paper" not in text
    assert "assumed" not in text


def test_every_setting_is_shown_once(program):
    lines = printed(listing.outlined, preset(), program)
    shown = [line.split()[0] for line in lines if line]

    for field in dataclasses.fields(Config):
        expected = 0 if field.name == "options" else 1
        assert shown.count(field.name) == expected, field.name
