"""What is left out by a conditional, by the platform that a step is lowered for.

Lowering for a CPU is made to follow the rules of another platform.
"""

import re

import jax
import pytest
import zoo
from counting import engine, network
from forced import assert_exact, forced_step, subsets

import lsam_jax as lsam
from lsam_jax.engine import conditionals

pytestmark = pytest.mark.core
ON_TPU, ON_GPU = {"WITHOUT_SEGMENTS": ("cpu",)}, {"GPUS": ("cpu",)}


@pytest.fixture
def on_this(monkeypatch):
    def follow(rules):
        for name, platforms in rules.items():
            monkeypatch.setattr(conditionals, name, platforms)

    return follow


def count(name, **options):
    """The conditionals of a compiled step, of which XLA leaves out what is known to be taken."""
    net = network(name)
    step, args = engine(net, lsam.layerwise_sam(2, 0.1, **options))
    return len(re.findall(r" conditional\(", jax.jit(step).lower(*args).compile().as_text()))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rules", [ON_TPU, ON_GPU], ids=["tpu", "gpu"])
@pytest.mark.parametrize("model", ["shared", "branches"])
def test_what_is_run_for_nothing_changes_nothing(model, rules, on_this):
    on_this(rules)
    case = zoo.build(model)
    run = forced_step(case, normalize="layer")
    for chosen in subsets(case.order):
        assert_exact(case, run, set(chosen), normalize="layer")


@pytest.mark.parametrize("name", ["dense", "convolutional"])
def test_a_tpu_runs_no_conditional(name, on_this):
    here = count(name)
    on_this(ON_TPU)
    assert count(name) == 0 < here


@pytest.mark.parametrize(("name", "gates"), [("dense", True), ("convolutional", False)])
def test_a_gpu_gates_no_convolution(name, gates, on_this):
    here, without = count(name), count(name, gate=False)
    assert without < here
    on_this(ON_GPU)
    captured = jax.__version_info__ >= (0, 10)
    assert count(name) == (here if gates and captured else without)


def test_what_the_user_says_holds_everywhere(on_this):
    forced = {"cuts": 3, "gate": True}
    here = count("dense", **forced)
    on_this({**ON_TPU, **ON_GPU})
    assert count("dense", **forced) == here / 2 > 0  # without those that are surely taken


@pytest.mark.parametrize(
    ("platform", "skips"), [("cpu", "true"), ("cuda", "true"), ("tpu", "false")]
)
def test_it_follows_the_platform_of_the_program(platform, skips):
    """Not that of the process: a host may compile for another machine."""
    program = jax.jit(lambda: conditionals._except_on(conditionals.WITHOUT_SEGMENTS)).trace()
    text = program.lower(lowering_platforms=(platform,)).as_text()
    assert set(re.findall(r"dense<(true|false)>", text)) == {skips}
