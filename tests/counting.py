"""Counts what XLA counts: floating-point operations of compiled programs, and their floor.

The floor of a step is built from the network's own stages: a plain gradient, and from the first
perturbed layer (or the cut) on one forward pass, the error propagation, and the weight gradients
of the selected layers. That is: the plain gradient, plus the gradient of the suffix with respect
to the selected layers alone.

Of a conditional, XLA's `cost_analysis` counts the dearest branch (found by experiment, the same
on jax 0.7.2, 0.10.2 and 0.12.0). So a `switch` over cuts counts as its first, and each branch is
taken out of the jaxpr and compiled by itself; and a gate counts as open, or is closed by hand.
"""

import functools

import jax
from staged import NETWORKS

import lsam_jax as lsam


def flops(fun, *args):
    return jax.jit(fun).lower(*args).compile().cost_analysis()["flops"]


@functools.cache
def network(name):
    return NETWORKS[name]()


@functools.cache
def plain(name):
    net = network(name)
    return flops(jax.value_and_grad(net.whole), net.params, net.batch)


@functools.cache
def floor(name, start, selected):
    """Of a step that is cut before `start` and perturbs the layers of the stages `selected`."""
    net = network(name)
    x, labels = net.batch
    hidden = jax.eval_shape(lambda p: net.before(start, p, x), net.params)

    def ascent(kernels, hidden):
        params = {n: {**p, "w": kernels.get(n, p["w"])} for n, p in net.params.items()}
        return net.from_stage(start)(params, hidden, labels)

    kernels = {n: net.params[n]["w"] for n in selected}
    return plain(name) + flops(jax.value_and_grad(ascent), kernels, hidden)


def engine(net, tx):
    """Its step, and what to call it with."""
    step = lsam.value_and_grad(net.whole, tx)
    return step, (net.params, tx.init(net.params), net.batch)


def conditionals(jaxpr):
    """All conditionals of a jaxpr, the outer ones first."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "cond":
            yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from conditionals(getattr(inner, "jaxpr", inner))


def branches(fun, args, count):
    """The branches of the conditional of so many branches, and their operands."""
    found = [
        c
        for c in conditionals(jax.make_jaxpr(fun)(*args).jaxpr)
        if len(c.params["branches"]) == count
    ]
    (switch,) = found
    operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in switch.invars[1:]]
    return switch.params["branches"], operands


def with_gates_closed(jaxpr):
    """The program with every gate, a conditional of two branches, closed."""

    def closed(eqn):
        if eqn.primitive.name != "cond" or len(eqn.params["branches"]) != 2:
            return eqn
        never = eqn.params["branches"][0]
        return eqn.replace(params={**eqn.params, "branches": (never, never)})

    return jaxpr.replace(jaxpr=jaxpr.jaxpr.replace(eqns=[closed(eqn) for eqn in jaxpr.eqns]))
