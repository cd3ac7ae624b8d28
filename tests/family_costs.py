"""What a step of each method costs, counted by XLA, and what it should cost by its definition.

The network is large in its batch, so that what is done once for each weight (norms, masks, random
numbers) weighs little beside the passes. `python tests/family_costs.py` prints the table.
"""

import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from contract import NAMES
from counting import branches, flops
from jax.extend import core as jex
from staged import dense

import lsam_jax as lsam
from lsam_jax import components
from lsam_jax.components import combination
from lsam_jax.experiments.config.methods import METHODS as FAMILY

RHO = 0.1
LATE = ("layer2", "a_head")
DRAWN = ("layer4", "layer1")


@functools.cache
def network():
    return dense(depth=5, width=64, batch=4096)


def cross_entropies(params, batch):
    net = network()
    x, labels = batch
    for name, stage in net.stages.items():
        x = stage(params[name], x)
    return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], -1)[:, 0]


def outputs(params, batch):
    x, _ = batch
    for name, stage in network().stages.items():
        x = stage(params[name], x)
    return x


SPLIT = lsam.split_loss(outputs, lambda out, batch: network().loss(out, batch[1]))
PER_SAMPLE = lsam.per_sample(cross_entropies)


class Units(NamedTuple):
    """What costs are made of, relative to a plain gradient.

    Attributes:
      forward: one forward pass.
      scales: forward pass and backward pass for the normalisation layers' scales alone.
      late: the gradient of `LATE` from the activations in front of them.
      drawn: the same for `DRAWN`.
      before: the forward pass of what is in front of `DRAWN`.
    """

    forward: float
    scales: float
    late: float
    drawn: float
    before: float


@functools.cache
def plain():
    net = network()
    return flops(jax.value_and_grad(net.whole), net.params, net.batch)


@functools.cache
def units():
    net = network()
    x, labels = net.batch

    def suffix(names):
        hidden = jax.eval_shape(lambda p: net.before(names[0], p, x), net.params)

        def loss(kernels, hidden):
            params = {n: {**p, "w": kernels.get(n, p["w"])} for n, p in net.params.items()}
            return net.from_stage(names[0])(params, hidden, labels)

        kernels = {n: net.params[n]["w"] for n in names}
        return flops(jax.value_and_grad(loss), kernels, hidden)

    def by_scales(scales):
        params = {
            n: {**p, **({"scale": scales[n]} if n in scales else {})} for n, p in net.params.items()
        }
        return net.whole(params, net.batch)

    scales = {n: p["scale"] for n, p in net.params.items() if "scale" in p}
    parts = (
        flops(net.whole, net.params, net.batch),
        flops(jax.value_and_grad(by_scales), scales),
        suffix(LATE),
        suffix(DRAWN),
        flops(lambda p: net.before(DRAWN[0], p, x), net.params),
    )
    return Units(*(part / plain() for part in parts))


class Row(NamedTuple):
    """A method, and the expected cost of each kind of step that it takes.

    `kinds` gives the cost of each branch (one, unless the method decides when to perturb), from
    `Units`; `shares` says how often each is taken; `outside` is what comes in front of them.
    """

    make: Any
    kinds: Any
    shares: tuple = (1.0,)
    outside: float = 0.0
    loss: Any = None


def kernels(names):
    return [f"{n}/w" for n in names]


OTHERS = (
    "layerwise_sam look_sam ae_sam momentum_sam adazo_sam esam sam_on sl_sam gam functional_sam"
)
TWO_GRADIENTS = [FAMILY[name] for name in NAMES if name not in OTHERS.split()]
TABLE = {
    "SGD": Row(lambda: lsam.layerwise_sam(0, RHO), lambda u: (1,)),
    "Momentum-SAM": Row(lambda: lsam.momentum_sam(RHO), lambda u: (1,)),
    "SAM, stale": Row(lambda: lsam.with_parts(lsam.sam(RHO), ascent=lsam.stale()), lambda u: (1,)),
    "layer-wise SAM, stale": Row(
        lambda: lsam.with_parts(lsam.layerwise_sam(2, RHO), ascent=lsam.stale()), lambda u: (1,)
    ),
    "SAM in the last eighth": Row(
        lambda: lsam.with_parts(lsam.sam(RHO), when=lsam.between(7 / 8, 1, steps=800)),
        lambda u: (0, 1),
        shares=(7 / 8, 1 / 8),
        outside=1.0,
    ),
    "layer-wise SAM, two late layers, with probability 0.5": Row(
        lambda: lsam.with_parts(
            lsam.layerwise_sam(None, RHO, selection=kernels(LATE)), when=lsam.bernoulli(0.5)
        ),
        lambda u: (1, 1 + u.late),
        shares=(0.5, 0.5),
    ),
    "SL-SAM, two layers drawn": Row(
        lambda: components.method(
            rho=RHO,
            selection=kernels(DRAWN),
            layers="kernel",
            combination=combination.selected_only,
        ),
        lambda u: (u.before + 2 * u.drawn,),
    ),
    "layer-wise SAM, two late layers": Row(
        lambda: lsam.layerwise_sam(None, RHO, selection=kernels(LATE)), lambda u: (1 + u.late,)
    ),
    "LookSAM, every 5": Row(
        lambda: lsam.look_sam(RHO, 5), lambda u: (0, 1), shares=(0.8, 0.2), outside=1.0
    ),
    "layer-wise LookSAM, every 5, two late layers": Row(
        lambda: lsam.look_sam(RHO, 5, selection=kernels(LATE), layers="kernel"),
        lambda u: (1, 1 + u.late),
        shares=(0.8, 0.2),
    ),
    "AE-SAM, half of the steps": Row(
        lambda: lsam.ae_sam(RHO), lambda u: (0, 1), shares=(0.5, 0.5), outside=1.0
    ),
    "SAM-ON": Row(
        lambda: lsam.sam_on(RHO, layers=[("scale", r"\g<0>")]), lambda u: (1 + u.scales,)
    ),
    "ESAM, all layers drawn, half of the samples": Row(
        lambda: lsam.esam(RHO, 1.0, 0.5), lambda u: (1 + u.forward + 0.5,), loss=PER_SAMPLE
    ),
    "AdaZo-SAM, one probe": Row(lambda: lsam.adazo_sam(RHO), lambda u: (1 + 3 * u.forward,)),
    "Functional-SAM": Row(lambda: lsam.functional_sam(RHO), lambda u: (2,), loss=SPLIT),
    **{row.label: Row(partial(row.make, RHO), lambda u: (2,)) for row in TWO_GRADIENTS},
    "GAM": Row(lambda: lsam.gam(RHO), lambda u: (4,)),
    "SAM, Composer's": Row(
        lsam.presets.sam_composer, lambda u: (0, 1), shares=(0.9, 0.1), outside=1.0
    ),
}


def counted(name):
    """The cost of each kind of step that a method takes, as XLA counts it, and as expected."""
    net, row = network(), TABLE[name]
    tx = row.make()
    fun = lsam.value_and_grad(row.loss or net.whole, tx)
    args = net.params, tx.init(net.params), net.batch
    expected = row.kinds(units())
    if len(expected) == 1:
        return (flops(fun, *args) / plain(),), expected
    found, operands = branches(fun, args, len(expected))
    return tuple(flops(jex.jaxpr_as_fun(b), *operands) / plain() for b in found), expected


def table():
    """Rows of name, cost of a step on average (counted, expected), relative to a plain gradient."""
    for name, row in TABLE.items():
        got, want = counted(name)
        yield name, *(row.outside + sum(s * c for s, c in zip(row.shares, x)) for x in (got, want))


if __name__ == "__main__":
    print("| method | counted | by definition |\n|---|---|---|")
    for name, got, want in table():
        print(f"| {name} | {got:.2f} | {want:.2f} |")
