"""How parameters are cut into layers: names, their order, what belongs to none."""

import collections
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
import textbook
import zoo
from flax import nnx
from training import RHO, assert_trains_like_textbook

import lsam_jax as lsam


def network():
    return {
        "block1": {"conv": {"kernel": jnp.ones((3, 3, 2, 2)), "bias": jnp.ones(2)}},
        "block0": {"norm": {"scale": jnp.ones(2)}, "conv": {"kernel": jnp.ones((3, 3, 2, 2))}},
        "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "temperature": jnp.ones(()),
        "layers": [{"w": jnp.ones((2, 2))}, None, {"w": jnp.ones((2, 2))}],
    }


RULES = {
    "kernel": (
        "kernel",
        ("block0/conv/kernel", "block1/conv/kernel", "head/kernel", "layers/0/w", "layers/2/w"),
    ),
    "module": (
        "module",
        (
            "block0/conv",
            "block0/norm",
            "block1/conv",
            "head",
            "layers/0",
            "layers/2",
            "temperature",
        ),
    ),
    "function": (
        lambda path: path.split("/")[0] if "block" in path else None,
        ("block0", "block1"),
    ),
    "identity": (
        lambda path: path if path.endswith(("bias", "e")) else None,
        ("block0/norm/scale", "block1/conv/bias", "head/bias", "temperature"),
    ),
    "a group": ([(r"^(block\d)/", r"\1"), ("head", "head")], ("block0", "block1", "head")),
    "a named group": ([(r"(?P<part>conv|norm)", r"all \g<part>s")], ("all convs", "all norms")),
    "first rule wins": ([("bias", None), ("block1", "a"), ("block", "b")], ("b", "a")),
    "one layer of all": ([("", "everything")], ("everything",)),
    "rules as a tuple": ((("head", "h"),), ("h",)),
    "a backreference inside the regex": ([(r"(c)onv/.*k", r"\1")], ("c",)),
}


@pytest.mark.core
@pytest.mark.parametrize("rule", RULES)
def test_names(rule):
    layers, names = RULES[rule]
    assert lsam.layer_names(network(), layers=layers) == names
    assert lsam.layer_names(jax.eval_shape(network), layers=layers) == names
    state = lsam.layerwise_sam(1, RHO, layers=layers).init(network())
    assert state.norms.shape == (len(names),)


def test_kernel_is_the_default():
    assert lsam.layer_names(network()) == RULES["kernel"][1]
    assert lsam.layerwise_sam(1, RHO).init(network()).norms.shape == (5,)


@pytest.mark.parametrize("model", zoo.MODELS)
def test_order_is_that_of_the_leaves(x64, model):
    params = zoo.build(model).params
    kernels = tuple(path for path, w in textbook.named(params).items() if w.ndim > 1)
    assert lsam.layer_names(params) == kernels
    assert kernels != zoo.build(model).order  # so that the zoo tells the two orders apart


def test_slashes_inside_a_key():
    """Haiku's parameters: module names with slashes, arrays as w and b."""
    params = {
        "mlp/~/linear_0": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)},
        "mlp/~/linear_1": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)},
    }
    assert lsam.layer_names(params) == ("mlp/~/linear_0/w", "mlp/~/linear_1/w")
    assert lsam.layer_names(params, "module") == ("mlp/~/linear_0", "mlp/~/linear_1")


def test_boxes_of_linen():
    """With `with_partitioning` the tree has boxes until it is unboxed; the names are the same."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
            return nn.Dense(3, kernel_init=init)(x)

    boxed = Model().init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    plain = nn.meta.unbox(boxed)
    assert jax.tree.structure(boxed) != jax.tree.structure(plain)
    for layers, name in [("kernel", "Dense_0/kernel"), ("module", "Dense_0")]:
        assert lsam.layer_names(boxed, layers) == lsam.layer_names(plain, layers) == (name,)


def test_variables_of_nnx():
    """`tx.init` sees Variables, whose path ends in `.value`; a step may see bare arrays."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(2, 4, rngs=rngs)
            self.second = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.second(jnp.tanh(self.first(x)))

    model = Model(nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    bare = nnx.to_pure_dict(params)
    for layers in ("kernel", "module"):
        assert lsam.layer_names(params, layers) == lsam.layer_names(bare, layers)
    assert lsam.layer_names(params) == ("first/kernel", "second/kernel")

    def loss(params, x):
        return jnp.mean(nnx.merge(graph, params, copy=True)(x) ** 2)

    tx = lsam.layerwise_sam(1, RHO)
    _, grads, state = jax.jit(lsam.value_and_grad(loss, tx))(
        params, tx.init(params), jnp.ones((4, 2))
    )
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert state.selected.tolist() == [False, True]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    weight: jax.Array
    bias: jax.Array


def test_attributes_of_a_dataclass():
    """As in Equinox."""
    params = {"layers": (Linear(jnp.ones((2, 3)), jnp.ones(3)), Linear(jnp.ones((3, 1)), None))}
    assert lsam.layer_names(params) == ("layers/0/weight", "layers/1/weight")
    assert lsam.layer_names(params, "module") == ("layers/0", "layers/1")


def test_a_parameter_named_value():
    """Only the attribute of a box is left out, not a key of the user's."""
    params = {"attention": {"value": jnp.ones((2, 2)), "key": jnp.ones((2, 2))}}
    assert lsam.layer_names(params) == ("attention/key", "attention/value")


LAYERS = {
    "module": "module",
    "every array": lambda path: path,
    "rules": [("bias", None), (r"block\d+/(conv|shortcut)", "convs"), ("(a_head|stem)", r"\1")],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "normalize"),
    [("module", True), ("module", "layer"), ("every array", True), ("rules", "layer")],
)
def test_other_layers_equal_the_textbook(x64, layers, normalize):
    """Layers of several arrays, also such that lie apart in the network."""
    case = zoo.build("resnet" if layers == "rules" else "branches")
    tx = lsam.layerwise_sam(2, RHO, 0.8, layers=LAYERS[layers], normalize=normalize)
    layer_of, order = {
        "module": module_layers,
        "every array": lambda: ({p: p for p in textbook.named(case.params)}, EVERY_ARRAY),
        "rules": lambda: (rule_layers(case), ("stem", "convs", "a_head")),
    }[layers]()

    def choose(norms, reported):
        return textbook.choose(norms, 2, order)

    assert_trains_like_textbook(
        case, tx, choose, 0.8, normalize, layers=LAYERS[layers], layer_of=layer_of
    )


EVERY_ARRAY = ("stem/w", "stem/b", "left/w", "deep/0/w", "deep/0/b", "deep/1/w", "join/w", "join/b")


def module_layers():
    paths = {path: path.rpartition("/")[0] for path in EVERY_ARRAY}
    return paths, tuple(dict.fromkeys(paths.values()))


def rule_layers(case):
    paths = [path for path in textbook.named(case.params) if "bias" not in path]
    layer_of = {path: path.split("/")[0] for path in paths if path.startswith(("a_head", "stem"))}
    convs = {path: "convs" for path in paths if "/conv" in path or "/shortcut" in path}
    return {**layer_of, **convs}


W = jnp.ones((2, 2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
    key: jax.Array
    value: jax.Array


def ordered(*items):
    """A dictionary with keys that cannot be sorted."""
    return collections.OrderedDict(items)


def by_function(path):
    return path


SOME = "^blocks/(?=w)"  # of what is called "blocks"
COLLISIONS = {
    "a slash in a key": ({"a/b": W, "a": {"b": 2 * W}}, "array", "a/b"),
    "by rank": ({"a/b": W, "a": {"b": 2 * W}}, "kernel", "a/b"),
    "by a function": ({"a/b": W, "a": {"b": 2 * W}}, by_function, "a/b"),
    "by a rule": ({"a/b": W, "a": {"b": 2 * W}}, [("(.*)", r"\1")], "a/b"),
    "of normalisation": ({"norm/w": W, "norm": {"w": W}}, "norm", "norm/w"),
    "Haiku": ({"m/~/l": {"w": W}, "m/~": {"l": {"w": W}}}, "kernel", "m/~/l/w"),
    "numbers and text": (ordered((0, W), ("0", W)), "array", "0"),
    "a number as a module": (ordered((0, W), ("0", {"w": W})), "module", "0"),
    "lists": ({"a": [W, W], "a/1": W}, "array", "a/1"),
    "a box": ({"a": {"b": nn.Partitioned(W, (None, None))}, "a/b": W}, "kernel", "a/b"),
    "modules": ({"a/b": {"v": W}, "a": {"b": {"w": W}}}, "module", "a/b"),
    "stacks": ({"a/b": {"v": W}, "a": {"b": {"w": W}}}, lsam.stacked("b", "slice"), "a/b/0"),
    "a slice": (
        {"blocks": {"w": W}, "blocks/1": {"w": W}},
        lsam.stacked(SOME, "array"),
        "blocks/1/w",
    ),
    "a slice as a layer": (
        {"blocks": {"w": W}, "blocks/1": {"v": W}},
        lsam.stacked(SOME, "slice"),
        "blocks/1",
    ),
}


@pytest.mark.core
@pytest.mark.parametrize("case", COLLISIONS)
def test_two_arrays_do_not_become_one_layer_by_accident(case):
    params, layers, name = COLLISIONS[case]
    where = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    rho = lsam.per_layer({}, default=RHO)
    for run in (
        lambda: lsam.layer_names(params, layers),
        lambda: lsam.layerwise_sam(1, rho, layers=layers).init(params),
    ):
        with pytest.raises(ValueError, match="would both be the layer") as caught:
            run()
        message = str(caught.value)
        assert repr(name) in message
        assert sum(f"params{place}" in message for place in where) >= 2


@pytest.mark.core
def test_arrays_of_one_path_are_refused_where_each_has_a_state():
    params = {"a/b": W, "a": {"b": W}}
    for make in (lambda: lsam.sam(RHO), lambda: lsam.freeze_inactive(optax.sgd(0.1))):
        with pytest.raises(ValueError, match=r"params\['a'\]\['b'\] and params\['a/b'\]"):
            make().init(params)


MEANT = {
    "module": ({"m/l": {"w": W, "b": W}, "m": {"v": W}}, "module", ("m", "m/l")),
    "flat": ({"m/w": W, "m/b": W, "m": {"v": W}}, "module", ("m",)),
    "one layer of all": ({"a/b": W, "a": {"b": W}}, [("", "all")], ("all",)),
    "left out": ({"a/b": W, "a": {"b": W}, "c": W}, [("a/b", None), ("", "c")], ("c",)),
    "bias with kernel": (
        {"l": {"bias": W, "kernel": W}},
        lambda path: path.replace("bias", "kernel"),
        ("l/kernel",),
    ),
    "an equal end": ({"a": {"b": W}, "b": W}, "array", ("a/b", "b")),
    "slices": (
        {"blocks": {"w": W, "b": W}, "head": {"w": W}},
        lsam.stacked("^blocks", "slice"),
        ("blocks/0", "blocks/1", "head"),
    ),
    "attention": (
        {"block": {"attention": Attention(W, W), "w": W}},
        "array",
        ("block/attention/key", "block/attention/value", "block/w"),
    ),
    "attention's module": (
        {"block": {"attention": Attention(W, W), "w": W}},
        "module",
        ("block/attention", "block"),
    ),
}


@pytest.mark.core
@pytest.mark.parametrize("case", MEANT)
def test_one_layer_of_several_arrays_on_purpose(case):
    params, layers, names = MEANT[case]
    assert lsam.layer_names(params, layers) == names
