"""Loss landscapes against quadratics, whose Hessian is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from lsam_jax.diagnostics import PAPER_STEPS, layer_landscape, model_landscape

SHAPES = ("bias", "in", "out")


def flat(tree):
    return np.concatenate([np.asarray(tree[name]).ravel() for name in SHAPES])


def landscape(quadratic, layer, key, **options):
    function, options = (
        (model_landscape, options)
        if layer is None
        else (layer_landscape, {"layer": layer} | options)
    )
    return function(
        quadratic.loss_fn,
        quadratic.params,
        quadratic.scale,
        batches=quadratic.batches,
        key=jax.random.key(key),
        **options,
    )


@pytest.mark.parametrize("layer", ["in", "out", None])
def test_equals_the_quadratic_at_every_point(quadratic, layer):
    found = landscape(quadratic, layer, 1, steps=[-2, 0, 1.5])
    np.testing.assert_array_equal(found.steps, [-2, 0, 1.5])
    u, v = flat(found.first), flat(found.second)
    for i, a in enumerate(found.steps):
        for j, b in enumerate(found.steps):
            want = quadratic.at(quadratic.centre + a * u + b * v)
            np.testing.assert_allclose(found.loss[i, j], want, rtol=1e-12)


@pytest.mark.parametrize("layer", ["in", "out"])
def test_directions_are_orthonormal_inside_the_layer_and_zero_outside(quadratic, layer):
    found = landscape(quadratic, layer, 2, steps=[0, 1])
    both = np.stack([flat(found.first), flat(found.second)])
    np.testing.assert_allclose(both @ both.T, np.eye(2), atol=1e-14)
    for outside in {"bias", "in", "out"} - {layer}:
        assert not np.any(found.first[outside]) and not np.any(found.second[outside])
    assert np.all(np.asarray(found.first[layer]) != 0)


def test_each_filter_of_the_whole_networks_direction_is_as_long_as_its_weights():
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": rng.normal(size=(3, 3, 2, 4)), "bias": rng.normal(size=4)},
        "norm": {"scale": rng.normal(size=4)},
        "dense": {"kernel": rng.normal(size=(4, 3)) * [1, 10, 0]},
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    found = model_landscape(
        lambda p: jnp.sum(p["conv"]["kernel"]), params, key=jax.random.key(0), steps=[0, 1]
    )
    for direction in (found.first, found.second):
        for name in ("conv", "dense"):
            got, want = (np.asarray(tree[name]["kernel"]) for tree in (direction, params))
            for j in range(want.shape[-1]):
                np.testing.assert_allclose(
                    np.linalg.norm(got[..., j]), np.linalg.norm(want[..., j]), rtol=1e-5
                )
        assert not np.any(direction["conv"]["bias"]) and not np.any(direction["norm"]["scale"])
    conv = [np.asarray(tree["conv"]["kernel"]) for tree in (found.first, found.second)]
    for direction in conv:  # inside a filter it is random still, and not the weights' own
        assert np.unique(np.sign(direction[..., 0])).tolist() == [-1, 1]
        assert abs(np.vdot(direction, params["conv"]["kernel"])) < 0.5 * np.vdot(*[direction] * 2)
    assert abs(np.vdot(*conv)) < 0.5 * np.vdot(conv[0], conv[0])


def test_layers_keys_and_networks_share_one_compilation():
    traces, counts = [], []

    def loss_fn(params, x):
        traces.append(1)
        return jnp.sum((x @ params["a"] @ params["b"]) ** 2)

    batches = jnp.ones((2, 4, 3))
    for seed, layer in enumerate(["a", "b", "a"]):
        params = {n: jax.random.normal(jax.random.key(seed), (3, 3)) for n in ("a", "b")}
        options = {"batches": batches, "key": jax.random.key(seed), "steps": [-1, 0, 1]}
        layer_landscape(loss_fn, params, layer=layer, **options)
        model_landscape(loss_fn, params, **options)
        counts.append(len(traces))
    assert counts == [1] * 3


def test_the_papers_grid():
    assert len(PAPER_STEPS) == 40
    assert (min(PAPER_STEPS), max(PAPER_STEPS)) == (-20, 19)


def test_shows_how_far_it_is(capsys):
    layer_landscape(
        lambda p: jnp.sum(p["w"]),
        {"w": jnp.ones((2, 2))},
        layer="w",
        key=jax.random.key(0),
        steps=[0, 1, 2],
        progress=tqdm,
    )
    assert "9/9" in capsys.readouterr().err


def test_a_layer_of_several_arrays_moves_as_one():
    params = {"m": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "rest": {"w": jnp.ones((2, 2))}}
    found = layer_landscape(
        lambda p: jnp.sum(p["m"]["w"]) + jnp.sum(p["m"]["b"]),
        params,
        layer="m",
        key=jax.random.key(0),
        steps=[-1, 0, 1],
        layers="module",
    )
    slope = sum(jnp.sum(x) for x in jax.tree.leaves(found.first["m"]))
    np.testing.assert_allclose(found.loss[2, 1] - found.loss[1, 1], slope, rtol=1e-5)
    norm = sum(jnp.sum(x**2) for x in jax.tree.leaves(found.first))
    np.testing.assert_allclose(norm, 1, rtol=1e-6)


def test_parameters_keep_their_type():
    seen = []

    def loss_fn(params):
        seen.append(params["w"].dtype)
        return jnp.sum(params["w"]).astype(jnp.float32)

    params, key = {"w": jnp.ones((2, 2), jnp.bfloat16)}, jax.random.key(0)
    layer_landscape(loss_fn, params, layer="w", key=key, steps=[0, 1])
    model_landscape(loss_fn, params, key=key, steps=[0, 1])
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "c"}, ValueError, r"layer='c' does not exist. The layers are: a, b"),
        ({"layer": "b"}, ValueError, r"layer='b' has 1 parameter"),
        ({"steps": [1.0]}, ValueError, r"steps=\[1.0\]"),
        ({"steps": [0.0, np.inf]}, ValueError, r"steps=\[0.0, inf\]"),
        ({"steps": np.ones((2, 2))}, ValueError, r"steps must be a list"),
        ({"steps": "ab"}, ValueError, r"steps='ab'"),
        ({"batches": []}, ValueError, r"batches is empty"),
        ({"loss_fn": lambda p: p["a"]}, TypeError, r"loss_fn must return a real scalar"),
        ({"loss_fn": lambda p: (p["a"].sum(), 0)}, TypeError, r"loss_fn must return a real scalar"),
    ],
)
def test_refuses(change, error, message):
    arguments = {"loss_fn": lambda p: jnp.sum(p["a"]), "layer": "a", "steps": [0, 1], **change}
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((1, 1))}
    with pytest.raises(error, match=message):
        layer_landscape(arguments.pop("loss_fn"), params, key=jax.random.key(0), **arguments)


def test_a_network_without_filters_is_refused():
    with pytest.raises(ValueError, match=r"no array of rank > 1.*The paths are: b"):
        model_landscape(
            lambda p: jnp.sum(p["b"]), {"b": jnp.ones(3)}, key=jax.random.key(0), layers="array"
        )
