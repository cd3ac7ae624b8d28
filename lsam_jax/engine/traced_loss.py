"""The loss as a program: traced once, its layers ordered, cut in two at any layer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from lsam_jax.devices.collectives import zeros_like_type
from lsam_jax.engine import auxiliary, effects, jaxprs, kept, scan_plans, scans
from lsam_jax.layers.leaves import Layers

Suffix = Callable[[Sequence[Any], Sequence[Any], Sequence[Any]], tuple[Any, list[Any]]]


class TracedLoss(NamedTuple):
    """A loss function, traced and with its nested `jit` calls opened.

    Attributes:
      closed: the jaxpr from the parameters' leaves to the loss and the leaves of aux.
      aux: the pytree structure of aux; see `auxiliary` for what is no array.
      references: those of the caller that the loss reads or writes; what they are to hold stands
        behind the leaves of aux, and counts among them.
    """

    closed: jex.ClosedJaxpr
    aux: Any
    references: Sequence[Any] = ()

    def run(self, leaves: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The loss and the leaves of aux."""
        loss, *aux = jex.jaxpr_as_fun(self.closed)(*leaves)
        return loss, aux

    def value_and_grad(
        self, leaves: Sequence[Any], wanted: Sequence[bool] | None = None
    ) -> tuple[tuple[Any, list[Any]], list[Any]]:
        """The loss and the leaves of aux, and the gradient: of the leaves that are wanted."""
        closed = kept.lighter_scans(self.closed, leaves)
        consts = own(closed.jaxpr.constvars, closed.consts)
        apart = self._replace(closed=jex.ClosedJaxpr(closed.jaxpr, consts))
        return gradient_of(apart.run, leaves, wanted)

    def settle(self, leaves: Sequence[Any]) -> Any:
        """Aux, and the caller's references are written."""
        for reference, held in zip(self.references, leaves[self.aux.num_leaves :]):
            reference[...] = held
        return self.aux_of(leaves)

    def aux_of(self, leaves: Sequence[Any]) -> Any:
        """Aux, from its leaves."""
        return self.aux.unflatten(leaves[: self.aux.num_leaves])

    def on(self, layers: Layers, leaves: Sequence[Any]) -> "TracedLoss":
        """The same as a function of the leaves of the parameters, not of their arrays."""
        if len(leaves) == len(self.closed.in_avals):
            return self

        def of_leaves(*leaves: Any) -> list[Any]:
            return jex.jaxpr_as_fun(self.closed)(*layers.arrays(leaves))

        return self._replace(closed=jax.make_jaxpr(of_leaves)(*leaves))

    def apart(self, layers: Layers, arrays: Sequence[Any]) -> tuple["TracedLoss", list[Any], Any]:
        """The same as a function of all rows of the parameters; these; the layer of each."""
        each = layers.apart()
        rows = each.leaves_of(arrays)
        return self.on(each, rows), rows, each.of_leaf

    def of_loss(self, change: Callable[[Any], Any], leaves: Sequence[Any]) -> "TracedLoss":
        """The same with its loss changed, for leaves like these."""

        def changed(*leaves: Any) -> list[Any]:
            loss, aux = self.run(leaves)
            return [change(loss), *aux]

        return self._replace(closed=jax.make_jaxpr(changed)(*leaves))


def gradient_of(
    run: Callable[[Sequence[Any]], Any], leaves: Sequence[Any], wanted: Sequence[bool] | None
) -> Any:
    """Value, aux and gradient of a function with aux, of all leaves or of those wanted."""
    wanted = [True] * len(leaves) if wanted is None else wanted
    index = [n for n, is_wanted in enumerate(wanted) if is_wanted]

    def of_wanted(some: Sequence[Any]) -> Any:
        rest = iter(some)
        return run([next(rest) if w else x for w, x in zip(wanted, leaves)])

    return jax.value_and_grad(of_wanted, has_aux=True)([leaves[n] for n in index])


class PrefixSuffix(NamedTuple):
    """A program in two parts, of which only the second depends on the suffix parameters.

    Attributes:
      prefix: from the other parameters to two lists, `hidden` and `fixed`: what the suffix reads,
        apart by whether it depends on these parameters differentiably.
      suffix: makes a function from `hidden`, `fixed` and the suffix parameters to the loss and the
        leaves of aux. It has references of its own, so it is to be made where it is used.
      writes: whether the suffix writes to references.
    """

    prefix: Callable[[Sequence[Any]], tuple[list[Any], list[Any]]]
    suffix: Callable[[], Suffix]
    writes: bool


def trace(loss_fn: Callable[[Any], Any], params: Any, has_aux: bool) -> TracedLoss:
    """Traces `loss_fn(params)`, once.

    Raises:
      TypeError: if the loss is not a real scalar, or does not match `has_aux`.
    """
    traceable = auxiliary.closed(loss_fn) if has_aux else loss_fn
    closed, shape = jax.make_jaxpr(traceable, return_shape=True)(params)
    _, aux = loss_and_aux(shape, has_aux)
    leaves = jax.tree.leaves(params)
    references: Sequence[Any] = ()
    if any(map(effects.is_reference, closed.jaxpr.constvars)):
        run, references = starting_over(closed)
        closed = jax.make_jaxpr(run)(*leaves)
    opened = jaxprs.rewrite(closed, leaves, jaxprs.open_nested)
    return TracedLoss(opened, jax.tree.structure(aux), references)


def shapes_of(out: Any) -> Any:
    """The shapes and types of what a loss function returned, for `loss_and_aux`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), out)


def loss_and_aux(shape: Any, has_aux: bool) -> tuple[Any, Any]:
    """The shapes of the loss and of aux, of those of what a loss function returned.

    Raises:
      TypeError: if the loss is not a real scalar, or does not match `has_aux`.
    """
    loss, aux = auxiliary.pair(shape, has_aux)
    is_array = isinstance(loss, jax.ShapeDtypeStruct)
    if not is_array or loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(
            "The loss must be a real scalar of a floating type; the loss function returned "
            f"{loss}. Reduce it, e.g. by jnp.mean, or take its real part."
        )
    return loss, aux


def cut(program: TracedLoss, leaves: Sequence[Any], in_suffix: Sequence[bool]) -> PrefixSuffix:
    """Cuts the program before the first equation that depends on a suffix parameter."""
    inputs = program.closed.jaxpr.invars
    sources = [v for v, late in zip(inputs, in_suffix) if late]
    closed = scans.split(program.closed, leaves, scan_plans.where_it_differs, sources)
    sources = [v for v, late in zip(closed.jaxpr.invars, in_suffix) if late]
    closed = jaxprs.split_checkpoints(closed, leaves, sources)
    closed = kept.lighter_scans(closed, leaves)
    jaxpr, consts = closed.jaxpr, closed.consts
    suffix_vars = [v for v, late in zip(jaxpr.invars, in_suffix) if late]
    prefix_vars = [v for v, late in zip(jaxpr.invars, in_suffix) if not late]
    before, after = effects.split(jaxpr.eqns, suffix_vars)
    late = set(suffix_vars)
    read = [v for v in jaxprs.variables_read(after, jaxpr.outvars) if v not in late]
    references = [v for v in read if effects.is_reference(v)]
    boundary = [v for v in read if not effects.is_reference(v)]
    _, moving = effects.split(before, prefix_vars)
    made = (v for eqn in moving for v in eqn.outvars)
    depends = jaxprs.differentiable(moving, {*prefix_vars, *made})
    differentiable = [v for v in boundary if v in depends]
    fixed = [v for v in boundary if v not in depends]
    run_prefix = jaxprs.as_function(
        before, [*jaxpr.constvars, *prefix_vars], [*differentiable, *fixed], jaxpr
    )
    run_suffix = jaxprs.as_function(
        after, [*differentiable, *fixed, *references, *suffix_vars], jaxpr.outvars, jaxpr
    )
    consts = own(jaxpr.constvars, consts)

    def prefix(params: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        out = run_prefix(*consts, *params)
        return out[: len(differentiable)], out[len(differentiable) :]

    def suffix() -> Suffix:
        held = own(references, references)

        def run(hidden: Sequence[Any], fixed: Sequence[Any], params: Sequence[Any]) -> Any:
            loss, *aux = run_suffix(*hidden, *fixed, *held, *params)
            return loss, aux

        return run

    return PrefixSuffix(prefix, suffix, any(effects.references(eqn) for eqn in after))


def layer_order(
    program: TracedLoss, leaves: Sequence[Any], of_leaf: Sequence[int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The place of each layer in the network, from the loss alone.

    A layer stands where its parameters first meet something that is not made of parameters
    alone (an activation, say): not where they are cast or where a weight decay is summed, which
    may be anywhere and in any order. A layer that never meets anything stands behind all
    others, in the order of first reading.

    Returns:
      position, i64[L], 0 being nearest the input; and reached, bool[L]: whether the loss
      depends on the layer.
    """
    opened = jaxprs.rewrite(program.closed, leaves, jaxprs.open_all)
    jaxpr = scans.split(opened, leaves, scan_plans.by_layer).jaxpr
    made_of = {v: frozenset([i]) for v, i in zip(jaxpr.invars, of_leaf)}
    meets, reads = _first_times(jaxpr, made_of)
    never = (len(jaxpr.eqns),)
    order = sorted(range(count), key=lambda i: (meets.get(i, never), reads.get(i, never), i))
    position = np.empty(count, np.int64)
    position[order] = np.arange(count)
    wanted = jaxprs.reaching(jaxpr, jaxpr.outvars[:1])
    reached = np.zeros(count, bool)
    reached[[i for v, i in zip(jaxpr.invars, of_leaf) if i >= 0 and v in wanted]] = True
    return position, reached


Times = dict[int, tuple[int, ...]]


def _first_times(jaxpr: jex.Jaxpr, made_of: dict[Any, frozenset[int]]) -> tuple[Times, Times]:
    """When each layer first meets something else, and when it is first read.

    A time is the place of an equation, followed by the time inside it where it has an inside.
    `made_of` gives the layers of each variable that is made of parameters alone.
    """
    made_of = dict(made_of)
    meets: Times = {}
    reads: Times = {}
    for place, eqn in enumerate(jaxpr.eqns):
        inputs = [v for v in eqn.invars if jaxprs.is_variable(v)]
        layers = frozenset[int]().union(*(made_of.get(v, ()) for v in inputs)) - {-1}
        alone = bool(inputs) and all(v in made_of for v in inputs)
        if alone:
            made_of.update((v, layers) for v in eqn.outvars)
        inner_times: Times = {}
        for inner in jaxprs.nested_jaxprs(eqn) if len(layers) > 1 else ():
            if len(inner.invars) == len(eqn.invars):
                pairs = zip(inner.invars, eqn.invars)
                inside = {v: made_of[o] for v, o in pairs if jaxprs.is_variable(o) and o in made_of}
                inner_times = _first_times(inner, inside)[0]
        for i in layers:
            time = (place, *inner_times.get(i, (len(jaxpr.eqns),)))
            reads.setdefault(i, time)
            if not alone:
                meets.setdefault(i, time)
    return meets, reads


def starting_over(closed: jex.ClosedJaxpr) -> tuple[Callable[..., list[Any]], list[Any]]:
    """A program as a function that starts from what the caller's references hold now.

    Returns:
      A function with the arguments of the program, which gives its results and behind them what
      the references hold in the end; and the references.
    """
    held = [c for v, c in zip(closed.jaxpr.constvars, closed.consts) if effects.is_reference(v)]
    start = [reference[...] for reference in held]

    def run(*args: Any) -> list[Any]:
        for reference, x in zip(held, start):
            reference[...] = x
        results = jex.jaxpr_as_fun(closed)(*args)
        return [*results, *(reference[...] for reference in held)]

    return run, held


def own(variables: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """The values of variables, with new references in the place of references."""
    return [
        jax.new_ref(zeros_like_type(v.aval.inner_aval)) if effects.is_reference(v) else x
        for v, x in zip(variables, values)
    ]
