"""`value_and_grad` takes what `jax.value_and_grad` takes, and hands back what that hands back."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from textbook import named, relative_error

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")

RHO = 0.3
METHODS = {
    "sam": lambda: lsam.sam(RHO),
    "look_sam": lambda: lsam.look_sam(RHO, 2),
    "functional_sam": lambda: lsam.functional_sam(RHO),
    "esam": lambda: lsam.esam(RHO, 1.0, 0.5),
    "gam": lambda: lsam.gam(RHO),
}


def problem():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=s)) for s in ((3, 4), (4, 1)))
    return {"a": a, "b": b}, jnp.asarray(rng.normal(size=(5, 3)))


def losses(p, x):
    return jnp.sum((jnp.tanh(x @ p["a"]) @ p["b"] - 1) ** 2, 1)


def loss(p, x):
    return jnp.mean(losses(p, x))


def by_hand(of, params, *, rho=RHO):
    """SAM's loss and direction by two calls of `jax.grad`."""
    value, g = jax.value_and_grad(of)(params)
    scale = rho / optax.tree.norm(g)
    return value, jax.grad(of)(jax.tree.map(lambda w, d: w + scale * d, params, g))


def assert_like(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(named(got).values(), named(want).values()):
        assert relative_error(a, b) <= 1e-12


def identity(x):
    return x


def mixed_aux(x):
    return {
        "name": "train",
        "function": identity,
        "number": 3,
        "array": x + 1,
        "numpy": np.arange(3),
        "nothing": None,
        "type": np.float32,
        "inside": [("a", x, 1.5), b"raw"],
    }


def parts(name, pair):
    """The loss of a method, with aux in a `pair`."""
    if name == "functional_sam":
        return lsam.split_loss(
            lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"],
            lambda out, x: pair([jnp.mean(jnp.sum((out - 1) ** 2, 1)), mixed_aux(x)]),
        )
    if name == "esam":
        return lsam.per_sample(lambda p, x: pair([losses(p, x), mixed_aux(x)]))
    return lambda p, x: pair([loss(p, x), mixed_aux(x)])


@pytest.mark.parametrize("pair", [tuple, list])
@pytest.mark.parametrize("name", METHODS)
def test_aux_that_is_not_an_array(name, pair):
    params, x = problem()
    tx, loss_fn = METHODS[name](), parts(name, pair)
    (value, aux), _, _ = lsam.value_and_grad(loss_fn, tx, has_aux=True)(params, tx.init(params), x)
    (want, want_aux), _ = jax.value_and_grad(parts("", pair), has_aux=True)(params, x)
    assert relative_error(value, want) <= 1e-12
    assert jax.tree.structure(aux) == jax.tree.structure(want_aux)
    for a, b in zip(jax.tree.leaves(aux), jax.tree.leaves(want_aux)):
        assert type(a) is type(b)
        assert np.array_equal(a, b) if hasattr(b, "shape") else a == b


def test_aux_that_is_not_an_array_is_used_inside_jit():
    params, x = problem()
    tx = lsam.look_sam(RHO, 2)

    @jax.jit
    def step(params, state, x):
        (value, aux), grads, state = lsam.value_and_grad(parts("", tuple), tx, has_aux=True)(
            params, state, x
        )
        assert aux["name"] == "train" and aux["number"] == 3
        return value, aux["function"](aux["array"]), grads

    value, array, grads = step(params, tx.init(params), x)
    assert_like((value, grads), by_hand(lambda p: loss(p, x), params))
    assert np.array_equal(array, x + 1)


def test_a_list_without_has_aux_is_refused():
    params, x = problem()
    tx = lsam.sam(RHO)
    with pytest.raises(TypeError, match="has_aux=True"):
        lsam.value_and_grad(lambda p, x: [loss(p, x), x], tx)(params, tx.init(params), x)
    for wrong in (loss, lambda p, x: [loss(p, x)] * 3):
        with pytest.raises(TypeError, match=r"must return \(loss, aux\)"):
            lsam.value_and_grad(wrong, tx, has_aux=True)(params, tx.init(params), x)


def behind(x, p, scale=1.0, *, shift=0.0):
    return scale * loss(p, x) + shift


@pytest.mark.parametrize("argnums", [1, -1])
def test_argnums_of_one_argument(argnums):
    params, x = problem()
    tx = lsam.sam(RHO)
    step = jax.jit(lsam.value_and_grad(behind, tx, argnums=argnums))
    value, grads, state = step(x, params, tx.init(params), shift=2.0)
    assert_like((value, grads), by_hand(lambda p: behind(x, p, shift=2.0), params))
    assert int(state.count) == 1


@pytest.mark.parametrize(("argnums", "jit"), [((0, 2), True), ([2, 0], False), ((0, -1), True)])
def test_argnums_of_several_arguments(argnums, jit):
    params, x = problem()

    def apart(a, x, b):
        return loss({"a": a, "b": b}, x)

    own = (params["a"], params["b"]) if argnums[0] == 0 else (params["b"], params["a"])
    of = (lambda p: apart(p[0], x, p[1])) if argnums[0] == 0 else lambda p: apart(p[1], x, p[0])
    tx = lsam.sam(RHO)
    step = lsam.value_and_grad(apart, tx, argnums=argnums)
    value, grads, _ = (jax.jit(step) if jit else step)(params["a"], x, params["b"], tx.init(own))
    assert_like((value, grads), by_hand(of, own))


def test_argnums_of_one_in_a_tuple():
    params, x = problem()
    tx = lsam.sam(RHO)
    _, grads, _ = lsam.value_and_grad(loss, tx, argnums=(0,))(params, tx.init((params,)), x)
    assert_like(grads, by_hand(lambda p: loss(p[0], x), (params,))[1])


@pytest.mark.parametrize("name", ["functional_sam", "esam"])
def test_argnums_of_a_loss_in_parts(name):
    """The parameters may stand elsewhere in these losses too."""
    params, x = problem()
    loss_fn = parts(name, tuple)
    first = lsam.value_and_grad(loss_fn, METHODS[name](), has_aux=True)
    tx = METHODS[name]()
    _, want, _ = first(params, tx.init(params), x)
    with pytest.raises(TypeError, match="argnums"):
        lsam.value_and_grad(loss_fn, tx, argnums=1)
    _, got, _ = lsam.value_and_grad(loss_fn, tx, has_aux=True, argnums=0)(
        params, tx.init(params), x
    )
    assert_like(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_arguments_by_keyword(jit):
    params, x = problem()
    tx = lsam.sam(RHO)
    run = jax.jit if jit else lambda f: f
    state, want = tx.init(params), by_hand(lambda p: loss(p, x), params)

    def named_loss(params, x):
        return loss(params, x)

    for step, given in [
        (run(lsam.value_and_grad(named_loss, tx)), {"params": params}),
        (run(lsam.value_and_grad(loss, tx)), {"p": params}),  # by the name that the loss has
        (run(lsam.value_and_grad(loss, tx)), {"params": params}),
    ]:
        assert_like(step(**given, sam_state=state, x=x)[:2], want)
        assert_like(step(params, sam_state=state, x=x)[:2], want)
        assert_like(step(params, state, x=x)[:2], want)
        assert_like(step(params, x, sam_state=state)[:2], want)
    step = run(lsam.value_and_grad(behind, tx, argnums=1))
    assert_like(step(x=x, p=params, sam_state=state)[:2], want)
    assert_like(step(x, p=params, sam_state=state, scale=1.0)[:2], want)


def test_names_that_the_loss_uses_itself():
    """A loss may have arguments named as ours are."""
    params, x = problem()
    tx = lsam.sam(RHO)

    def own(w, x, *, params, sam_state):
        return params * loss(w, x) + sam_state

    step = lsam.value_and_grad(own, tx)
    got = step(params, tx.init(params), x, params=2.0, sam_state=1.0)
    assert_like(got[:2], by_hand(lambda p: own(p, x, params=2.0, sam_state=1.0), params))


def test_missing_arguments_are_named():
    params, x = problem()
    tx = lsam.sam(RHO)
    step = lsam.value_and_grad(loss, tx)
    with pytest.raises(TypeError, match="sam_state is missing"):
        step(params)
    with pytest.raises(TypeError, match=r"'p'.* is missing"):
        step(sam_state=tx.init(params), x=x)
    with pytest.raises(TypeError, match="sam_state is missing"):
        lsam.value_and_grad(behind, tx, argnums=1)(x, params)


def test_the_signature_is_that_of_the_loss_with_the_state():
    tx = lsam.sam(RHO)
    step = lsam.value_and_grad(behind, tx, argnums=1)
    assert list(inspect.signature(step).parameters) == ["x", "p", "sam_state", "scale", "shift"]
    params, x = problem()
    step = jax.jit(lsam.value_and_grad(loss, tx), donate_argnames=("sam_state",))
    state = tx.init(params)
    step(params, state, x)
    assert state.count.is_deleted()


@pytest.mark.parametrize(
    ("options", "way_out"),
    [
        ({"allow_int": True}, "allow_int=True.*close over"),
        ({"holomorphic": True}, "holomorphic=True.*real"),
        ({"reduce_axes": ("batch",)}, r"reduce_axes=\('batch',\).*axis_name"),
        ({"argnums": "params"}, "positions.*argnums='params'"),
        ({"argnums": ()}, r"positions.*argnums=\(\)"),
        ({"argnums": (0, 0)}, r"argnums=\(0, 0\).*once"),
    ],
)
def test_what_is_refused_names_the_way_out(options, way_out):
    with pytest.raises((TypeError, ValueError), match=way_out):
        lsam.value_and_grad(loss, lsam.sam(RHO), **options)
    assert lsam.value_and_grad(
        loss, lsam.sam(RHO), allow_int=False, holomorphic=False, reduce_axes=()
    )


@pytest.mark.slow
def test_argnums_with_micro_batches():
    params, x = problem()
    tx = lsam.sam(RHO)
    step = lsam.value_and_grad(behind, tx, argnums=1, m=1, batch_argnums=0)
    value, grads, _ = step(x, params, tx.init(params))
    each = [by_hand(lambda p, i=i: loss(p, x[i : i + 1]), params) for i in range(len(x))]
    mean = jax.tree.map(lambda *v: sum(v) / len(v), *each)
    assert_like((value, grads), mean)
    with pytest.raises(ValueError, match="batch_argnums=1"):
        lsam.value_and_grad(behind, tx, argnums=1, m=1)


@pytest.mark.parametrize("part", [{"m": 1}, {"ascent_batch": 1}], ids=lambda part: next(iter(part)))
def test_parameters_counted_from_the_end_are_no_batch(part):
    params, x = problem()
    tx = lsam.sam(RHO)
    for argnums in (1, -1):
        with pytest.raises(ValueError, match=r"batch_argnums.*\(1 is that of params\)"):
            lsam.value_and_grad(behind, tx, argnums=argnums, **part)(x, params, tx.init(params))
    from_start, from_end = (
        lsam.value_and_grad(behind, tx, argnums=n, batch_argnums=0, **part) for n in (1, -1)
    )
    state = tx.init(params)
    assert_like(from_end(x, params, state)[:2], from_start(x, params, state)[:2])


@pytest.mark.parametrize("pair", [tuple, list])
def test_elsewhere_aux_may_be_anything_too(pair):
    params, x = problem()
    for has_aux in (None, True):
        network = lsam.inspect(parts("", pair), params, x, has_aux=has_aux)
        assert [layer.name for layer in network.layers] == ["a", "b"]
    fisher = lsam.empirical_fisher(parts("esam", pair), params, x)
    assert_like(fisher, lsam.empirical_fisher(lsam.per_sample(losses), params, x))
