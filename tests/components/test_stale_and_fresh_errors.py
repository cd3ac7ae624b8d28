"""What does not go with `stale(fresh=...)` is refused by name, before anything runs."""

import jax
import jax.numpy as jnp
import pytest
from refusals import Loss, parameters, refused

import lsam_jax as lsam
from lsam_jax import components

NO_CLEAN_PASS = {
    "generalized_sam": lsam.generalized_sam,
    "gsam": lsam.gsam,
    "stable_sam": lsam.stable_sam,
    "look_sam": lsam.look_sam,
    "ae_sam": lsam.ae_sam,
    "sl_sam": lsam.sl_sam,
    "functional_sam": lsam.functional_sam,
    "esam": lsam.esam,
}


@pytest.mark.parametrize("name", NO_CLEAN_PASS)
def test_refused_where_stale_is(name):
    with refused(ValueError, "ascent", "clean"):
        lsam.with_parts(NO_CLEAN_PASS[name](), ascent=lsam.stale(fresh="head/w"))


DYNAMIC = {
    "high": {"k": 1},
    "random": {"k": 1, "selection": "random"},
    "independent": {"k": None, "selection": lsam.independent(0.5)},
    "budget": {"k": 1, "selection": lsam.budget(0.5)},
    "price": {"k": 1, "selection": lsam.price(1.5)},
    "per_cost": {"k": 1, "selection": lsam.per_cost()},
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_the_layers_must_be_known(name):
    with refused(ValueError, "fresh='head/w'", "selection", '"all"'):
        lsam.with_parts(
            lsam.layerwise_sam(rho=0.1, **DYNAMIC[name]), ascent=lsam.stale(fresh="head/w")
        )


def test_refused_from_the_parts_too():
    """`components.method` takes what `with_parts` would not."""
    for options, word in (
        ({"selection": "high", "k": 1}, "selection"),
        ({"descent": components.of_outputs}, "outputs"),
        ({"combination": components.surrogate_gap}, "mix"),
    ):
        tx = components.method(rho=0.1, ascent=lsam.stale(fresh="head/w"), **options)
        with refused(ValueError, word):
            tx.init(parameters())


def test_the_layer_must_exist():
    tx, loss = lsam.with_parts(lsam.sam(), ascent=lsam.stale(fresh="tail/w")), Loss()
    words = ("fresh", "'tail/w'", "body/w", "body/b", "head/w")
    with refused(ValueError, *words):
        tx.init(parameters())
    plain = lsam.with_parts(lsam.sam(), ascent=lsam.stale()).init(parameters())
    with refused(ValueError, *words, loss=loss):
        lsam.value_and_grad(loss, tx)(parameters(), plain)
    with refused(TypeError, "fresh", "3"):
        lsam.stale(fresh=3)


def test_faces_that_do_not_show_the_network_are_refused():
    tx, loss = lsam.with_parts(lsam.sam(), ascent=lsam.stale(fresh="head/w")), Loss()
    params = parameters()
    state = tx.init(params)
    with refused(ValueError, "grad_fn", "fresh='head/w'", "value_fn"):
        tx.update(params, state, params, grad_fn=jax.grad(loss))
    with refused(ValueError, "ascent_fn", "fresh='head/w'", loss=loss):
        tx.update(params, state, params, value_fn=loss, ascent_fn=loss)
    with refused(ValueError, "ascent_batch", "fresh='head/w'", loss=loss):
        lsam.value_and_grad(lambda p, x: loss(p), tx, ascent_batch=0.5)(params, state, jnp.ones(4))
    with refused(ValueError, "fresh='head/w'", "suggest_rho", "stale()"):
        lsam.suggest_rho(lambda p: jnp.sum(p["head"]["w"]), params, tx=tx)


def test_a_loss_that_cannot_be_traced_is_refused():
    tx = lsam.with_parts(lsam.sam(), ascent=lsam.stale(fresh="head/w"))
    params = parameters()

    def by_python(p):
        return jnp.sum(p["head"]["w"] ** 2) * (2.0 if float(p["body"]["b"][0]) > 0 else 1.0)

    with refused(ValueError, "fresh='head/w'", "traced", "order"):
        lsam.value_and_grad(by_numbers, tx)(params, tx.init(params), 1.0)
    with pytest.raises(jax.errors.ConcretizationTypeError):  # as jax.grad would say it
        lsam.value_and_grad(by_python, tx)(params, tx.init(params))


def by_numbers(p, n):
    """`jax.grad` runs it, for it does not trace what it does not differentiate."""
    held = jnp.asarray(n) * 2

    @jax.custom_vjp
    def f(x):
        return held * x

    f.defvjp(lambda x: (f(x), None), lambda _, g: (held * g,))
    return jnp.sum(f(p["head"]["w"]))
