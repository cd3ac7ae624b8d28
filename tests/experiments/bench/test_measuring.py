"""Timing, the environment, output files, and the peers of the benchmark."""

import getpass
import json
import math
import re
import socket
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lsam_jax as lsam
from lsam_jax.experiments import environment, files
from lsam_jax.experiments.bench import baselines, timing


def test_functions_are_timed_in_turn_after_a_warm_up():
    calls, now = [], [0.0]
    price = {"a": 1.0, "b": 3.0}

    def function(name):
        def run():
            calls.append(name)
            now[0] += price[name] if len(calls) > 2 else 100.0  # the first round compiles
            return jnp.zeros(())

        return run

    functions = {name: function(name) for name in price}
    seconds = timing.interleaved(functions.values(), 3, clock=lambda: now[0])
    assert calls == ["a", "b"] * 4
    np.testing.assert_array_equal(seconds, [[1.0, 3.0]] * 3)


def test_a_slow_round_does_not_move_the_ratio():
    seconds = np.array([[1.0, 1.5], [10.0, 15.0], [1.0, 1.5], [1.0, 9.0], [2.0, 3.0]])
    costs = timing.costs(("a", "b"), seconds)
    assert costs["a"] == timing.Cost(1.0, 1.0, 1.0, 1.0, 1.0, 1)
    assert costs["b"] == timing.Cost(3.0, 1.5, 1.5, 1.5, 1.5, 1)


def test_the_environment_says_what_and_not_who(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={Path.home()}/dump --xla_cpu_use_x=true")
    found = environment.describe()
    assert found["jax"] == jax.__version__
    assert found["platform"] == jax.default_backend()
    assert found["cpu_count"] >= 1
    assert found["xla_flags"] == "--xla_dump_to=... --xla_cpu_use_x=true"
    text = json.dumps({k: v for k, v in found.items() if k not in ("cpu_model", "system")})
    for secret in (str(Path.home()), socket.gethostname(), getpass.getuser(), str(Path.cwd())):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text)


def test_json_is_strict_and_leaves_no_half_file(tmp_path):
    file = tmp_path / "x.json"
    files.write_json(file, {"a": (1, math.nan, [-math.inf, "b", None])})
    assert json.loads(file.read_text()) == {"a": [1, None, [None, "b", None]]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_peers_agree_with_the_closed_form():
    # The gradient of 1/2 a w^2 at w + rho * direction is a (w + rho * direction).
    params = {"first": jnp.array([[1.0, 2.0]]), "last": jnp.array([[3.0, -4.0]])}
    a = jnp.array([2.0, 0.5])

    def loss(params, a):
        value = sum(0.5 * jnp.sum(a * w**2) for w in params.values())
        return value, value

    gradient = {name: a * w for name, w in params.items()}
    norm = optax.tree.norm(gradient)
    one = {"first": params["first"], "last": params["last"] + 0.1 * gradient["last"]}
    both = {name: w + 0.1 * gradient[name] / norm for name, w in params.items()}
    mask = {"first": jnp.array(False), "last": jnp.array(True)}
    tx = lsam.layerwise_sam(k=1, rho=0.1)
    state = tx.init(params)._replace(norms=jnp.array([0.0, 1.0]))
    results = {
        "textbook": (baselines.textbook(loss, 0.1)(params, mask, a), one),
        "static": (baselines.static_cut(loss, 0.1, ["last"])(params, a), one),
        "layer-wise": (lsam.value_and_grad(loss, tx, has_aux=True)(params, state, a)[:2], one),
        "optax": (baselines.optax_sam(loss, 0.1)(params, a), both),
        "sgd": (jax.value_and_grad(loss, has_aux=True)(params, a), params),
    }
    for name, ((value, got), at) in results.items():
        np.testing.assert_allclose(value, [loss(params, a)[0]] * 2, rtol=1e-6, err_msg=name)
        for layer in params:
            np.testing.assert_allclose(got[layer], a * at[layer], rtol=1e-6, err_msg=name)
