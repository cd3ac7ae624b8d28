"""Flax NNX: the loss of a model as a function of its parameters, and `value_and_grad`.

Both run the loss on copies of the model (`nnx.merge(..., copy=True)`): a BatchNorm or Dropout
that wrote into the model itself would leak traced values out of the engine's two passes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import lsam_jax as lsam


def make_value_fn(
    model: Any, loss_fn: Callable[..., Any], *args: Any, wrt: Any = nnx.Param, **kwargs: Any
) -> Callable[[Any], Any]:
    """The loss as a function of the parameters: what `nnx.Optimizer.update` passes on to Optax.

    It holds the model as it is now, whatever becomes of the model. Make it before the model runs
    on the batch, and its dropout masks are those of that run.

    Args:
      model: the model; neither this nor the function returned changes it.
      loss_fn: `loss_fn(model, *args, **kwargs)`, a real scalar, or `(loss, aux)`.
      *args: further arguments of the loss.
      wrt: what of the model the optimizer was made for, as in `nnx.Optimizer(..., wrt=wrt)`.
      **kwargs: further keyword arguments of the loss.

    Returns:
      `value_fn(params) -> loss`.

    >>> import jax.numpy as jnp, optax
    >>> import lsam_jax as lsam
    >>> from flax import nnx
    >>> from lsam_jax.integrations.nnx import make_value_fn
    >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> tx = optax.chain(lsam.layerwise_sam(k=1, rho=0.1), optax.sgd(0.1))
    >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    >>> loss_fn = lambda model, x: jnp.mean(model(x) ** 2)
    >>> value_fn = make_value_fn(model, loss_fn, jnp.ones((3, 2)))
    >>> loss, grads = nnx.value_and_grad(loss_fn)(model, jnp.ones((3, 2)))
    >>> _ = optimizer.update(model, grads, value_fn=value_fn)
    >>> bool(loss_fn(model, jnp.ones((3, 2))) < loss)
    True
    """
    graphdef, _, rest = nnx.split(model, wrt, ...)
    rest = jax.tree.map(lambda x: x, rest)  # else these are the model's own, which go on changing
    others = _others_among((args, kwargs), model)

    def value_fn(params: Any) -> Any:
        copy = nnx.merge(graphdef, params, rest, copy=True)
        args, kwargs = others.put(others.given, others.copies())
        out = loss_fn(copy, *args, **kwargs)
        return out[0] if isinstance(out, tuple | list) else out

    return value_fn


def value_and_grad(
    loss_fn: Callable[..., Any],
    tx: lsam.SamTransformation,
    has_aux: bool = False,
    *,
    wrt: Any = nnx.Param,
    **sampling: Any,
) -> Callable[..., Any]:
    """Like `nnx.value_and_grad`, for the direction of descent that `tx` defines.

    Both passes are made and nothing is computed twice; see `lsam_jax.value_and_grad`. What the
    clean pass changes in the model (BatchNorm statistics, the counters of its random streams) is
    changed afterwards, once; the perturbed pass leaves no trace. So it is with other objects of
    NNX among the arguments: `nnx.Rngs`, a metric, a second model.

    A method that needs the loss in parts (`functional_sam`, `esam`) does not find them here:
    `nnx.split` the model and call `lsam_jax.value_and_grad`.

    Args:
      loss_fn: `loss_fn(model, *args, **kwargs)`, a real scalar, or `(loss, aux)`.
      tx: what `layerwise_sam` or another method returns (not a chain).
      has_aux: whether `loss_fn` returns `(loss, aux)`.
      wrt: what to differentiate with respect to, e.g. `nnx.LoRAParam`; what else the model holds
        is frozen, and costs no gradient.
      **sampling: `ascent_batch` and what goes with it in `lsam_jax.value_and_grad` (the model
        is argument 0). The model is then changed by the second pass, unless `clean_aux`. Or `m`:
        what its parts change in the model is averaged.

    Returns:
      A function `(model, sam_state, *args, **kwargs)` that returns `(loss, grads, sam_state)`,
      or `((loss, aux), grads, sam_state)`; `sam_state` starts as `tx.init(nnx.state(model, wrt))`,
      and `grads` is what `nnx.Optimizer.update(model, grads)` takes.

    Raises:
      TypeError, ValueError: as for `lsam_jax.value_and_grad`.
      ValueError: if another argument shares variables with the model.

    >>> import jax.numpy as jnp, optax
    >>> import lsam_jax as lsam
    >>> from flax import nnx
    >>> from lsam_jax.integrations.nnx import value_and_grad
    >>> model, tx = nnx.Linear(2, 1, rngs=nnx.Rngs(0)), lsam.layerwise_sam(k=1, rho=0.1)
    >>> optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    >>> loss_and_grad = value_and_grad(lambda model, x: jnp.mean(model(x) ** 2), tx)
    >>> sam_state = tx.init(nnx.state(model, nnx.Param))
    >>> loss, grads, sam_state = loss_and_grad(model, sam_state, jnp.ones((3, 2)))
    >>> _ = optimizer.update(model, grads)
    >>> bool(jnp.mean(model(jnp.ones((3, 2))) ** 2) < loss)
    True
    """
    lsam.value_and_grad(loss_fn, tx, **sampling)  # its checks of all

    def wrapped(model: Any, sam_state: Any, /, *args: Any, **kwargs: Any) -> Any:
        graphdef, params, rest = nnx.split(model, wrt, ...)
        others = _others_among((args, kwargs), model)
        args, kwargs = others.given

        def pure(params: Any, *args: Any) -> tuple[Any, Any]:
            copy, copies = nnx.merge(graphdef, params, rest, copy=True), others.copies()
            args, named = others.put((args, kwargs), copies)
            out = loss_fn(copy, *args, **named)
            loss, aux = out if has_aux else (out, None)
            return loss, (aux, nnx.state(copy, nnx.Not(wrt)), nnx.state(copies))

        step = lsam.value_and_grad(pure, tx, has_aux=True, **sampling)
        (loss, (aux, *after)), grads, new_state = step(params, sam_state, *args)
        if sampling.get("m") is not None:
            after = jax.tree.map(_of_all_parts, after)
        nnx.update(model, after[0])
        nnx.update(others.nodes, after[1])
        return ((loss, aux) if has_aux else loss), grads, new_state

    return wrapped


def _of_all_parts(x: Any) -> Any:
    """The mean over the parts of a batch; of counters and keys, which are the same in all, one."""
    return jnp.mean(x, axis=0) if jnp.issubdtype(x.dtype, jnp.inexact) else x[0]


class _Others(NamedTuple):
    """The objects of NNX among the arguments of a loss.

    Attributes:
      given: the arguments, with None for each of them.
      places: which of the leaves they are, None being a leaf.
      nodes: the objects.
      split: these as a graph and its state, as they are now.
    """

    given: Any
    places: list[int]
    nodes: list[Any]
    split: tuple[Any, Any]

    def copies(self) -> list[Any]:
        return nnx.merge(*self.split, copy=True)

    def put(self, given: Any, nodes: list[Any]) -> Any:
        """These arguments with these nodes in their places."""
        leaves, treedef = jax.tree.flatten(given, is_leaf=lambda x: x is None)
        for n, node in zip(self.places, nodes):
            leaves[n] = node
        return jax.tree.unflatten(treedef, leaves)


def _others_among(arguments: Any, model: Any) -> _Others:
    leaves, treedef = jax.tree.flatten(arguments, is_leaf=lambda x: x is None or _is_node(x))
    places = [n for n, x in enumerate(leaves) if _is_node(x)]
    nodes = [leaves[n] for n in places]
    if nodes and _variables(nodes) & _variables(model):
        found = ", ".join(type(x).__name__ for x in nodes if _variables(x) & _variables(model))
        raise ValueError(
            f"{found} among the arguments of the loss shares variables with the model, so that "
            "it is not said whose they are: leave it out and take it from the model, or pass "
            "nnx.clone(...) of it."
        )
    given = jax.tree.unflatten(treedef, [None if _is_node(x) else x for x in leaves])
    graphdef, state = nnx.split(nodes)
    return _Others(given, places, nodes, (graphdef, jax.tree.map(lambda x: x, state)))


def _is_node(x: Any) -> bool:
    return isinstance(x, nnx.Pytree | nnx.Variable)


def _variables(node: Any) -> set[int]:
    return {id(x) for _, x in nnx.iter_graph(node) if isinstance(x, nnx.Variable)}
