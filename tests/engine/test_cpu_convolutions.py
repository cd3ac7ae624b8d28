"""Quick convolutions on a CPU: the same numbers, in the library's order, some of them in parts."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
import zoo
from counting import by_platform, for_cpu
from jax.sharding import AxisType, PartitionSpec
from training import RHO, assert_trains_like_textbook

import lsam_jax as lsam
from lsam_jax.engine import cpu_convolutions, jaxprs

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("x64")]

NCHW = ("NCHW", "OIHW", "NCHW")
NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture
def in_parts(monkeypatch):
    """One CPU device, on which small gradients are cut too."""
    monkeypatch.setattr(cpu_convolutions, "one_device", lambda: True)
    monkeypatch.setattr(cpu_convolutions, "WORTH_CUTTING", 0)
    monkeypatch.setattr(cpu_convolutions, "IMAGES", 2)
    monkeypatch.setattr(cpu_convolutions, "POSITIONS", 32)


def convolve(x, w, layout, **options):
    given = {"window_strides": (1,) * (x.ndim - 2), "padding": "SAME", **options}
    return jax.lax.conv_general_dilated(x, w, dimension_numbers=layout, **given)


CASES = {
    "plain": ((24, 6, 7, 3), (3, 3, 3, 5), NHWC, {}),
    "strided": ((24, 8, 7, 3), (3, 3, 3, 5), NHWC, {"window_strides": (2, 1)}),
    "channels first": ((24, 3, 6, 7), (5, 3, 3, 3), NCHW, {"window_strides": (2, 2)}),
    "dilated": ((24, 8, 8, 2), (3, 3, 2, 4), NHWC, {"rhs_dilation": (2, 2)}),
    "one dimension": ((24, 20, 3), (5, 3, 4), ("NWC", "WIO", "NWC"), {"padding": [(3, 1)]}),
    "three": ((24, 4, 4, 3, 2), (2, 3, 2, 2, 3), ("NDHWC", "DHWIO", "NDHWC"), {}),
}


def gradients(shape, kernel, layout, options):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=shape), rng.normal(size=kernel)
    e = rng.normal(size=jax.eval_shape(lambda: convolve(x, w, layout, **options)).shape)

    def both(x, w):
        return jax.vjp(lambda x, w: convolve(x, w, layout, **options), x, w)[1](e)

    return both, (x, w)


def equations(jaxpr):
    """All equations where they are lowered for a CPU, those inside others too."""
    for eqn in jaxpr.eqns:
        yield eqn
        here = {"branches": for_cpu(eqn)} if by_platform(eqn) else eqn.params
        for nested in jaxprs.nested_jaxprs(eqn.replace(params=here)):
            yield from equations(nested)


def lengths(fun, *args):
    """Of the loops in a program."""
    eqns = equations(jax.make_jaxpr(fun)(*args).jaxpr)
    return [eqn.params["length"] for eqn in eqns if eqn.primitive.name == "scan"]


def not_canonical(fun, *args):
    """How many convolutions are not in the order of XLA's fast library."""
    eqns = equations(jax.make_jaxpr(fun)(*args).jaxpr)
    numbers = [eqn.params["dimension_numbers"] for eqn in eqns if "conv_" in eqn.primitive.name]
    assert numbers
    return sum(spec.lhs_spec[1] != len(spec.lhs_spec) - 1 for spec in numbers)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_jax(case, in_parts):
    both, args = gradients(*CASES[case])
    quick = jax.jit(cpu_convolutions.quick(both))
    for found, expected in zip(quick(*args), both(*args)):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert lengths(quick, *args) != []
    assert not_canonical(quick, *args) == 0 < not_canonical(both, *args)


@pytest.mark.parametrize(
    ("images", "parts"),
    [(24, [12]), (22, [11]), (25, [5]), (23, []), (3, [])],
)
def test_is_cut_into_as_many_parts_as_divide_the_batch(images, parts, in_parts):
    both, args = gradients((images, 6, 6, 3), (3, 3, 3, 5), NHWC, {})
    assert lengths(cpu_convolutions.quick(both), *args) == parts


def test_small_images_are_taken_together(in_parts):
    both, args = gradients((24, 4, 4, 3), (3, 3, 3, 5), NHWC, {})
    assert lengths(cpu_convolutions.quick(both), *args) == [12]  # 2 images have 32 positions
    both, args = gradients((24, 3, 3, 3), (2, 2, 3, 5), NHWC, {})
    assert lengths(cpu_convolutions.quick(both), *args) == [8]  # 9 positions: 3 images have 27


@pytest.mark.parametrize(
    ("why", "kernel", "options", "dtype"),
    [
        ("in groups", (3, 3, 1, 4), {"feature_group_count": 4}, "float64"),
        ("rounding", (3, 3, 4, 4), {}, "bfloat16"),
    ],
)
def test_is_not_cut(why, kernel, options, dtype, in_parts):
    x, w = jnp.ones((24, 6, 6, 4), dtype), jnp.ones(kernel, dtype)
    of_w = jax.grad(lambda w: jnp.sum(convolve(x, w, NHWC, **options).astype(jnp.float32)))
    assert lengths(cpu_convolutions.quick(of_w), w) == []


def test_neither_a_small_gradient_nor_one_of_several_devices_is_cut(monkeypatch):
    both, args = gradients((64, 32, 32, 4), (3, 3, 4, 4), NHWC, {})
    assert lengths(cpu_convolutions.quick(both), *args) == []  # the tests have eight devices
    monkeypatch.setattr(cpu_convolutions, "one_device", lambda: True)
    assert lengths(cpu_convolutions.quick(both), *args) == [8]
    both, args = gradients((64, 32, 32, 4), (3, 3, 4, 3), NHWC, {})
    assert lengths(cpu_convolutions.quick(both), *args) == []


def test_a_forward_convolution_is_not_cut(in_parts):
    x, w = jnp.ones((2, 24, 6, 6)), jnp.ones((4, 24, 3, 3))  # it sums over 24 channels
    forward = cpu_convolutions.quick(lambda x, w: convolve(x, w, NCHW))
    assert lengths(forward, x, w) == [] and not_canonical(forward, x, w) == 0


def surrounded(kind):
    """The gradient of two convolutions, inside of something."""
    rng = np.random.default_rng(1)
    x, ws = rng.normal(size=(6, 6, 6, 3)), rng.normal(size=(2, 3, 3, 3, 3))

    def one(x, w):
        return jnp.tanh(convolve(x, w, NHWC))

    def loss(ws):
        if kind == "scan":
            return jnp.sum(jax.lax.scan(lambda x, w: (one(x, w), x[0]), x, ws)[0] ** 2)
        return jnp.sum(one(one(x, ws[0]), ws[1]) ** 2)

    def in_while(ws):
        def again(state):
            n, ws = state
            return n + 1, ws - 0.01 * jax.grad(loss)(ws)

        return jax.lax.while_loop(lambda state: state[0] < 3, again, (0, ws))[1]

    fun = {
        "cond": lambda ws: jax.lax.cond(ws[0, 0, 0, 0, 0] > -9, jax.grad(loss), jnp.zeros_like, ws),
        "while": in_while,
        "scan": jax.grad(loss),
        "jit": jax.jit(jax.grad(loss)),
        "remat": jax.grad(jax.checkpoint(loss)),
    }[kind]
    return fun, ws


@pytest.mark.parametrize("kind", ["cond", "while", "scan", "jit", "remat"])
def test_reaches_into_what_surrounds(kind, in_parts):
    fun, ws = surrounded(kind)
    quick = cpu_convolutions.quick(fun)
    np.testing.assert_allclose(jax.jit(quick)(ws), fun(ws), rtol=1e-12, atol=1e-12)
    assert not_canonical(quick, ws) == 0 < not_canonical(fun, ws)
    assert lengths(quick, ws) != lengths(fun, ws)


def test_a_batch_of_unknown_size_is_not_cut(in_parts):
    size = jax.export.symbolic_shape("batch")[0]
    x, w = jax.ShapeDtypeStruct((size, 6, 6, 3), float), jnp.ones((3, 3, 3, 5))

    def of_w(x, w):
        return jax.grad(lambda w: jnp.sum(convolve(x, w, NHWC) ** 2))(w)

    exported = jax.export.export(jax.jit(cpu_convolutions.quick(of_w)))(x, w)
    some = np.random.default_rng(0).normal(size=(4, 6, 6, 3))
    np.testing.assert_allclose(exported.call(some, w), of_w(some, w), rtol=1e-12)


def on_mesh(kind, count):
    return jax.make_mesh((count,), ("d",), devices=jax.devices()[:count], axis_types=(kind,))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(("devices", "parts"), [(1, 8), (2, 4)])
def test_each_device_of_a_shard_map_cuts_its_own_images(devices, parts, check, monkeypatch):
    monkeypatch.setattr(cpu_convolutions, "WORTH_CUTTING", 0)
    monkeypatch.setattr(cpu_convolutions, "IMAGES", 3)
    monkeypatch.setattr(cpu_convolutions, "POSITIONS", 1)
    rng, mesh, rows = np.random.default_rng(0), on_mesh(AxisType.Auto, devices), PartitionSpec("d")
    x, w = rng.normal(size=(24, 6, 6, 3)), rng.normal(size=(3, 3, 3, 5))

    def of_both(x, w):
        loss = lambda x, w: jnp.mean(jnp.tanh(convolve(x, w, NHWC)) ** 2)  # noqa: E731
        own = w + 0 * x[0, 0, 0, 0]  # each device's, so that shard_map sums no gradient
        return jax.grad(loss, argnums=(0, 1))(x, own)

    def shared_out(fun):
        mean = lambda *args: jax.lax.pmean(fun(*args), "d")  # noqa: E731
        specs = {"in_specs": (rows, PartitionSpec()), "out_specs": PartitionSpec()}
        return jax.shard_map(mean, mesh=mesh, check_vma=check, **specs)

    quick = shared_out(cpu_convolutions.quick(of_both))
    for found, expected in zip(jax.jit(quick)(x, w), shared_out(of_both)(x, w)):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert not_canonical(quick, x, w) == 0 and lengths(quick, x, w) == [parts]


def test_a_convolution_stays_where_its_type_says(in_parts):
    mesh, spec = on_mesh(AxisType.Explicit, 2), PartitionSpec(None, None, "d", None)
    layout = ("HWNC", "HWIO", "HWNC")
    args = gradients((6, 6, 24, 3), (3, 3, 3, 5), layout, {})[1]
    with jax.set_mesh(mesh):
        lies = jax.sharding.NamedSharding(mesh, spec)
        x, w = jax.device_put(args, (lies, jax.sharding.NamedSharding(mesh, PartitionSpec())))
        square = lambda x, w: jnp.sum(convolve(x, w, layout, out_sharding=lies) ** 2)  # noqa: E731
        of_both = jax.grad(square, argnums=(0, 1))
        quick = jax.jit(cpu_convolutions.quick(of_both))
        found = quick(x, w)
        assert jax.typeof(found[0]).sharding.spec == spec
        assert not_canonical(quick, x, w) == 0 and lengths(quick, x, w) == []
        wanted = of_both(x, w)
    for got, expected in zip(found, wanted):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_what_is_alike_is_traced_once():
    ws = jnp.ones((3, 3, 3, 3, 3))

    def loss(ws):
        x = jnp.ones((6, 3, 6, 6))
        return jnp.sum(functools.reduce(lambda x, w: convolve(x, w, NCHW), ws, x))

    found = jax.make_jaxpr(cpu_convolutions.quick(jax.grad(loss)))(ws).jaxpr
    kinds = [eqn.params["branches"][0] for eqn in found.eqns if by_platform(eqn)]
    assert len(kinds) > 3 == len(set(map(id, kinds)))  # forward, of images, of a kernel


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet", "convolutions"])
@pytest.mark.parametrize("selection", ["high", "all"])
def test_a_step_in_parts_is_the_textbooks(model, selection, in_parts, monkeypatch):
    monkeypatch.setattr(cpu_convolutions, "IMAGES", 1)
    case = zoo.build(model)
    k = 2 if selection == "high" else None
    tx = lsam.layerwise_sam(k, RHO, 0.8, selection=selection)
    step = functools.partial(lsam.value_and_grad(case.loss, tx, has_aux=True), case.params)
    assert lengths(step, tx.init(case.params), case.batches[0]) != []

    def choose(norms, reported):
        return textbook.choose(norms, k or len(case.order), case.order)

    assert_trains_like_textbook(case, tx, choose, alpha=0.8)
