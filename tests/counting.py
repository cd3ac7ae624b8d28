"""Counts what XLA counts: floating-point operations of compiled programs, and their floor.

The floor of a step is built from the network's own stages: a plain gradient, and from the first
perturbed layer (or the cut) on one forward pass, the error propagation, and the weight gradients
of the selected layers. That is: the plain gradient, plus the gradient of the suffix with respect
to the selected layers alone.

Of a conditional, XLA's `cost_analysis` counts the dearest branch (found by experiment, the same
on jax 0.7.2, 0.10.2 and 0.12.0). So `as_it_runs` puts the branch that is taken in its place.
"""

import functools

import jax
from jax.extend import core as jex
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
    """All conditionals of a jaxpr, the outer ones first, where it is lowered for a CPU."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "cond" and not by_platform(eqn):
            yield eqn
        for value in for_cpu(eqn):
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from conditionals(getattr(inner, "jaxpr", inner))


def by_platform(eqn):
    """Whether an equation chooses by the platform that it is lowered for."""
    return bool(eqn.params.get("branches_platforms"))


def for_cpu(eqn):
    """The parameters of an equation; of one that chooses by platform, its branch for a CPU."""
    if not by_platform(eqn):
        return eqn.params.values()
    platforms = eqn.params["branches_platforms"]
    place = next(n for n, names in enumerate(platforms) if names is None or "cpu" in names)
    return [eqn.params["branches"][place]]


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


def as_it_runs(fun, *args):
    """The operations of a step, every conditional being the branch that these arguments take."""
    closed = jax.make_jaxpr(fun)(*args)
    flat = jax.tree.leaves(args)
    taken = []
    _evaluate(closed, flat, taken.append)
    rest = iter(taken)
    return flops(lambda *args: _evaluate(closed, args, lambda _: None, lambda: next(rest)), *flat)


def _evaluate(closed, args, seen, chosen=None):
    """Runs a program with branches in the place of conditionals; says which, or is told."""
    jaxpr = closed.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(atom):
        return atom.val if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        if eqn.primitive.name == "cond":
            branch = int(values[0]) if chosen is None else chosen()
            seen(branch)
            out = _evaluate(eqn.params["branches"][branch], values[1:], seen, chosen)
        else:
            out = alone(jaxpr, eqn)(*values)
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in jaxpr.outvars]


def alone(jaxpr, eqn):
    """One equation as a function of all its operands."""
    inputs = [v if not isinstance(v, jex.Literal) else None for v in eqn.invars]
    names = list(dict.fromkeys(v for v in inputs if v is not None))
    part = jaxpr.replace(
        constvars=[],
        invars=names,
        outvars=eqn.outvars,
        eqns=[eqn],
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    run = jex.jaxpr_as_fun(jex.ClosedJaxpr(part, []))

    def fun(*values):
        env = dict(zip(inputs, values, strict=True))
        return run(*(env[v] for v in names))

    return fun
