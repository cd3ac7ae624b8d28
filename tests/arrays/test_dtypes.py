"""Types are kept: of parameters and gradients, and of the state from step to step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
from refusals import refused
from zoo.common import array, cross_entropy

import lsam_jax as lsam

pytestmark = pytest.mark.core

RHO = 0.1


DTYPES = ("float16", "bfloat16", "float32", "float64")
ALPHAS = (1.0, 0.8, optax.linear_schedule(0.5, 1.0, 4))
SELECTIONS = ("high", "random", "all", "none")
CASES = [  # each alpha with each type, and with each selection
    (dtype, alpha, SELECTIONS[(d + a) % 4])
    for d, dtype in enumerate(DTYPES)
    for a, alpha in enumerate(ALPHAS)
]


def network(dtype):
    rng = np.random.default_rng(0)
    shapes = {"m_in": (5, 6), "z_mid": (6, 6), "bias": (6,), "a_head": (6, 3)}
    params = {name: array(rng, *shape).astype(dtype) for name, shape in shapes.items()}
    batch = {
        "x": jnp.asarray(rng.normal(size=(8, 5)), dtype),
        "y": jnp.asarray(rng.integers(0, 3, 8)),
    }

    def loss(p, batch):
        x = jnp.tanh(batch["x"] @ p["m_in"])
        x = jnp.tanh(x @ p["z_mid"] + p["bias"])
        return cross_entropy((x @ p["a_head"]).astype(jnp.float32), batch["y"])

    return params, batch, loss


def types(shapes):
    """Of what `jax.eval_shape` gives."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), shapes)


@pytest.mark.parametrize(("dtype", "alpha", "selection"), CASES)
def test_types_and_shapes_are_stable(request, dtype, selection, alpha):
    """Nothing that goes in comes out as something else; a scan over steps demands it."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    params, batch, loss = network(dtype)
    k = 2 if selection in ("high", "random") else None
    tx = lsam.layerwise_sam(k, RHO, alpha, selection=selection, normalize=True)
    value_and_grad = lsam.value_and_grad(loss, tx, has_aux=True)
    state = tx.init(params)
    want = lsam.SamState(
        count=((), jnp.int32, False),
        norms=((3,), jnp.float32, False),
        selected=((3,), jnp.bool_, False),
        perturbations=((3,), jnp.int32, False),
        sharpness=((), jnp.float32, False),
        rho=((), jnp.float32, False),
        rise=((), jnp.float32, False),
    )
    assert types(jax.eval_shape(tx.init, params)) == want
    (value, aux), grads, new = jax.eval_shape(value_and_grad, params, state, batch)
    assert types(new) == want
    clean = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), params, batch)
    assert ((value, aux), grads) == clean

    def grad_fn(params):
        return jax.grad(loss, has_aux=True)(params, batch)[0]

    updates, new = jax.eval_shape(lambda p, s: tx.update(p, s, p, grad_fn=grad_fn), params, state)
    assert types(new) == want
    assert types(updates) == types(jax.eval_shape(grad_fn, params))


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("dtype", "tolerance", "normalize"), [("float32", 1e-5, "layer"), ("bfloat16", 5e-2, True)]
)
def test_single_and_half_precision(dtype, tolerance, normalize):
    """As users run it: optimized, without double precision, and with bfloat16 parameters."""
    params, batch, loss = network(dtype)
    tx = lsam.layerwise_sam(2, 0.5, 0.8, normalize=normalize)
    step = jax.jit(lsam.value_and_grad(loss, tx, has_aux=True))
    (value, _), grads, _ = step(params, tx.init(params), batch)
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    want = textbook.step(gradient, params, batch, {"z_mid", "a_head"}, 0.5, 0.8, normalize)
    assert value.dtype == jnp.float32
    for name, g in grads.items():
        assert g.dtype == params[name].dtype
        assert textbook.relative_error(g, want.direction[name]) < tolerance
    plain = gradient(params, batch)[1]
    moved = max(textbook.relative_error(grads[n], plain[n]) for n in grads)
    assert moved > 2 * tolerance  # so that the comparison means something


def test_norms_of_bfloat16_are_summed_in_float32():
    """10^5 equal squares: in bfloat16 their sum would stop growing at 256."""
    params = {"w": jnp.full((1000, 100), 1.0, jnp.bfloat16)}
    tx = lsam.layerwise_sam(1, 0.0)
    _, _, state = jax.jit(lsam.value_and_grad(lambda p: jnp.sum(p["w"].astype(jnp.float32)), tx))(
        params, tx.init(params)
    )
    assert float(state.norms[0]) == pytest.approx(np.sqrt(1e5), rel=1e-6)


def test_numpy_parameters_are_accepted():
    params, batch, loss = network("float32")
    tx = lsam.layerwise_sam(1, RHO)
    step = lsam.value_and_grad(loss, tx, has_aux=True)
    as_numpy = jax.tree.map(np.asarray, params)
    got, want = (step(p, tx.init(p), batch)[1] for p in (as_numpy, params))
    assert all(textbook.relative_error(got[n], want[n]) < 1e-6 for n in want)


SMALL = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"]
OTHER = ["int4", "uint4", "int8", "uint32", "bool", "complex64"]


def with_small_bias(dtype):
    params, batch, loss = network("float32")
    params["bias"] = params["bias"].astype(dtype)
    return params, batch, lambda p, batch: loss(p | {"bias": p["bias"].astype(jnp.float32)}, batch)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SMALL)
def test_a_perturbation_that_would_round_away_is_refused(dtype):
    """Eight bits hold no perturbation; cast in the loss, they are no obstacle."""
    params, batch, loss = with_small_bias(dtype)
    for tx in (lsam.sam(RHO), lsam.sl_sam(RHO), lsam.layerwise_sam(1, RHO, layers="array")):
        for run in (tx.init, lambda p, tx=tx: lsam.value_and_grad(loss, tx, True)(p, (), batch)):
            with refused(TypeError, "'bias'", dtype, "bfloat16", "in the loss", "layers"):
                run(params)
    params["bias"] = params["bias"].astype(jnp.bfloat16)
    cast = lambda p, batch: loss(p | {"bias": p["bias"].astype(dtype)}, batch)  # noqa: E731
    tx = lsam.sam(RHO)
    (value, _), _, state = lsam.value_and_grad(cast, tx, True)(params, tx.init(params), batch)
    assert np.isfinite(value)
    assert state.selected.all()


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("k", [1, 3])
def test_small_types_that_do_not_move_descend_as_in_jax(dtype, k):
    """An array of no layer is not perturbed: it gets its gradient at the perturbed weights."""
    params, batch, loss = with_small_bias(dtype)
    tx = lsam.layerwise_sam(k, RHO)
    step = jax.jit(lsam.value_and_grad(loss, tx, has_aux=True))
    _, grads, state = step(params, tx.init(params), batch)
    chosen = {name for name, s in zip(lsam.layer_names(params), state.selected) if s}
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    want = textbook.step(gradient, params, batch, chosen, RHO)
    for name, g in grads.items():
        assert g.dtype == params[name].dtype
        assert textbook.relative_error(g, want.direction[name]) < (0.2 if name == "bias" else 1e-5)


@pytest.mark.parametrize("dtype", OTHER)
def test_what_is_not_real_and_floating_is_refused(dtype):
    params, _, _ = network("float32")
    params["bias"] = params["bias"].astype(dtype)
    for tx in (lsam.sam(RHO), lsam.layerwise_sam(1, RHO)):  # whether or not it is in a layer
        with refused(TypeError, "real floating arrays", "'bias'", dtype):
            tx.init(params)


CLOCKED = {
    "look_sam": lambda: lsam.look_sam(2.0, every=2),
    "ae_sam": lambda: lsam.ae_sam(2.0),
    "every": lambda: lsam.with_parts(lsam.sam(2.0), when=lsam.every(2)),
}


@pytest.mark.parametrize("types", [("float32", "bfloat16"), ("bfloat16", "float32")])
@pytest.mark.parametrize("name", CLOCKED)
def test_grad_fn_of_another_type_than_the_updates_beside_a_cadence(name, types):
    """The steps are those of both in the wider type, rounded to that of the updates."""
    tx, w = CLOCKED[name](), {"w": jnp.asarray([1.0, -2.0, 0.5], jnp.bfloat16)}

    def run(of_updates, of_grad_fn):
        def gradient(dtype):
            return lambda p: {"w": (p["w"] ** 2 * jnp.roll(p["w"], 1)).astype(dtype)}

        state, found = tx.init(w), []
        for _ in range(3):
            given = gradient(of_updates)(w)
            update = jax.jit(lambda g, s: tx.update(g, s, w, grad_fn=gradient(of_grad_fn)))
            updates, state = update(given, state)
            assert updates["w"].dtype == of_updates
            found.append(np.asarray(updates["w"], np.float32))
        return found

    np.testing.assert_allclose(run(*types), run("float32", "float32"), rtol=4e-2)
