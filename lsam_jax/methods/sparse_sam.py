"""Sparse SAM: perturbs single weights under a mask, of Fisher information or grown."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays import promotion
from lsam_jax.arrays.draws import check_seed, key_for
from lsam_jax.arrays.vectors import squared_norm
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.perturbation import Perturbation, along
from lsam_jax.components.radius import Radius
from lsam_jax.devices.collectives import axes
from lsam_jax.devices.shardings import lay_like, whole
from lsam_jax.engine.auxiliary import loss_of
from lsam_jax.layers.leaves import Layers
from lsam_jax.layers.partition import partition
from lsam_jax.losses import PerSample
from lsam_jax.transform.method import state_of
from lsam_jax.transform.options import LayerOptions, with_options
from lsam_jax.transform.state import SamState
from lsam_jax.transform.transform import SamTransformation, method


class Mask(NamedTuple):
    """The memory of Sparse SAM.

    Attributes:
      moves: a tree like the parameters: for each weight of a layer, whether it is perturbed.
      changed: i32[], how many steps there were when it changed last; `()` for one that does not
        change by itself.
    """

    moves: Any
    changed: Any = ()


def masked(sparsity: float, seed: int) -> Perturbation:
    """`w + rho m g / ||g||`, m a mask with the share `1 - sparsity` of ones; at first random."""
    check_seed(seed)

    def init(layers: Layers, leaves: Sequence[Any]) -> Mask:
        key = key_for("mask", seed)
        scores = [layers.draw(n, x, jax.random.uniform, key) for n, x in enumerate(leaves)]
        return most(layers, scores, sparsity)

    def move(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Mask) -> list[Any]:
        moves = now.layers.leaves(memory.moves)
        square = squared_norm(g)
        kept = [jnp.where(moves[n], d, jnp.zeros_like(d)) for n, d in zip(at.leaf, g)]
        return along(kept, square, w, at, now)

    return Perturbation(move, init, refresh=lambda layers, scores: most(layers, scores, sparsity))


def drop_and_grow(sparsity: float, every: Any, drop: arguments.Scalar, seed: int) -> Perturbation:
    """`masked`, whose mask changes: of its ones the share `drop` goes, as many come anew.

    Those of smallest gradient go; those that come are drawn from the zeros at random. It is asked
    in steps that perturb alone, so it changes in the first of them that is due.
    """
    base = masked(sparsity, seed)

    def init(layers: Layers, leaves: Sequence[Any]) -> Mask:
        return base.init(layers, leaves)._replace(changed=jnp.zeros((), jnp.int32))

    def changed(memory: Mask, g: Arrays, at: Targets, now: StepContext) -> Mask:
        moves = now.layers.leaves(memory.moves)
        flat = _joined([moves[n] for n in at.leaf])
        size = _joined([jnp.abs(d) for d in g])
        luck = jax.random.uniform(key_for("growth", seed, now.count), flat.shape)
        share = arguments.resolve(drop, now.count)
        count = jnp.round(share * flat.sum()).astype(jnp.int32)
        count = jnp.minimum(count, (~flat).sum())
        gone = flat & (_rank(jnp.where(flat, size, jnp.inf)) < count)
        come = ~flat & (_rank(jnp.where(flat, jnp.inf, luck)) < count)
        new = _parts((flat & ~gone) | come, [moves[n] for n in at.leaf])
        for n, part in zip(at.leaf, new):
            moves[n] = part
        return Mask(now.layers.tree(moves), jnp.asarray(now.count + 1, jnp.int32))

    def update(memory: Mask, g: Arrays, at: Targets, now: StepContext) -> Mask:
        due = now.count + 1 - memory.changed >= arguments.resolve_whole(every, now.count)
        return jax.lax.cond(due, lambda: changed(memory, g, at, now), lambda: memory)

    return base._replace(init=init, update=update, refresh=None)


def most(layers: Layers, scores: Sequence[jax.Array], sparsity: float) -> Mask:
    """The mask of the share `1 - sparsity` of all weights in layers that has the largest scores."""
    inside = layers.inside
    if not inside:  # there are no weights: see layers_of
        return Mask(layers.tree(list(scores)))
    of_layers = [jnp.asarray(scores[n]) for n in inside]
    flat = _joined(of_layers)
    chosen = _rank(-flat) < round((1 - sparsity) * flat.size)
    moves: list[Any] = [()] * len(scores)
    for n, part in zip(inside, _parts(chosen, of_layers)):
        moves[n] = part
    return Mask(layers.tree(moves))


def _joined(arrays: Sequence[jax.Array]) -> jax.Array:
    """All entries in one vector, which each device has as a whole: ranks are over all of them."""
    return jnp.concatenate([whole(x).ravel() for x in arrays])


def _parts(flat: jax.Array, like: Sequence[jax.Array]) -> list[jax.Array]:
    """The inverse of `_joined`, the arrays lying like these."""
    parts, place = [], 0
    for x in like:
        parts.append(lay_like(flat[place : place + x.size].reshape(x.shape), x))
        place += x.size
    return parts


def _rank(x: jax.Array) -> jax.Array:
    """The place of each entry in ascending order; of equal ones the earlier goes first."""
    places = jnp.arange(x.size, dtype=jnp.int32)
    return jnp.zeros_like(places).at[jnp.argsort(x, stable=True)].set(places)


@with_options
def sparse_sam(
    rho: Radius = 0.05,
    sparsity: float = 0.5,
    *,
    dynamic: bool = False,
    every: Any = 100,
    drop: arguments.Scalar = 0.5,
    seed: int = 0,
    **options: Unpack[LayerOptions],
) -> SamTransformation:
    """Sparse SAM (Mi et al. 2022): perturbs single weights, those that a mask has.

    The direction is the gradient at w + rho m g / ||g||, the norm over all weights, with m a mask
    whose share of ones is 1 - sparsity. At first it is random. Then, by `dynamic`:

    - False (SSAM-F): the weights of the largest empirical Fisher information, whenever you say so,
      e.g. every few epochs: `sam_state = refresh_mask(tx, sam_state, empirical_fisher(...))`.
    - True (SSAM-D): every so many steps the share `drop` of the ones, those of smallest |g|, turns
      to zeros, and as many zeros, drawn at random, to ones.

    A mask saves nothing: a step costs what SAM costs. https://arxiv.org/abs/2210.05177

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      sparsity: the share of weights that are never moved, in [0, 1). 0 is SAM.
      dynamic: how the mask changes.
      every: with `dynamic`, steps between changes; beside a cadence (`with_parts`), the fewest,
        since the mask changes in steps that perturb.
      drop: with `dynamic`, that share; a number or a schedule (the authors' is
        `optax.cosine_decay_schedule(0.5, steps)`).
      seed: of what is random.
      **options: `layers` (by default every array is one), `axis_name` and `perturbation_sync`, as
        for `layerwise_sam`. The weights of all layers compete.

    Returns:
      A transformation whose state holds one bool for each weight.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it; or if `dynamic` meets
        devices that perturb apart.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.ones(4), lambda w: jnp.sum(w**2) / 2
    >>> tx = lsam.sparse_sam(rho=2.0, sparsity=0.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> sorted(direction.tolist())  # two of four weights are moved, by 2 w / ||w||
    [1.0, 1.0, 2.0, 2.0]
    """
    arguments.check_static("sparsity", sparsity, "decides the size of a mask", low=0.0, below=1.0)
    arguments.check_truth("dynamic", dynamic)
    arguments.check_count("every", every, low=1)
    arguments.check_real("drop", drop, low=0.0, most=1.0)
    sync = options.get("perturbation_sync", "global")
    if dynamic and axes(options.get("axis_name"), sync).apart:
        raise ValueError(
            f"perturbation_sync={sync!r} with dynamic=True would let every device "
            'change the mask by a gradient of its own; pass perturbation_sync="global".'
        )
    mask = drop_and_grow(sparsity, every, drop, seed) if dynamic else masked(sparsity, seed)
    return method(rho=rho, perturbation=mask, **options)


@promotion.usual(theirs=("loss_fn",))
def empirical_fisher(loss_fn: PerSample, params: Any, *args: Any, **kwargs: Any) -> Any:
    """The diagonal of the empirical Fisher: the mean over samples of the squared gradient.

    One gradient for each sample, one after the other, in the memory of one.

    Args:
      loss_fn: the loss, made by `per_sample`.
      params: the parameters.
      *args: further arguments of the loss, the samples among them.
      **kwargs: further keyword arguments of the loss.

    Returns:
      A tree like `params`, in at least float32.

    Raises:
      TypeError: if the loss is not made by `per_sample`.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> loss_fn = lsam.per_sample(lambda w, x: x @ w)
    >>> lsam.empirical_fisher(loss_fn, jnp.ones(2), jnp.asarray([[1.0, 2.0], [3.0, 0.0]])).tolist()
    [5.0, 2.0]
    """
    if not isinstance(loss_fn, PerSample):
        raise TypeError(
            "empirical_fisher needs the loss of each sample: pass lsam.per_sample(losses); got "
            f"{type(loss_fn).__name__}."
        )
    batch = loss_fn.at(*args, **kwargs)
    count = jax.eval_shape(lambda params: loss_of(batch.each(params)), params).shape[0]

    def add(total: Any, sample: jax.Array) -> tuple[Any, None]:
        def loss(params: Any) -> Any:
            # Where samples are dealt out to devices, each gets the same one.
            return jnp.mean(loss_of(batch.of(jnp.full(batch.parts, sample)).each(params)))

        g = jax.grad(loss)(params)
        return jax.tree.map(lambda t, d: t + d.astype(t.dtype) ** 2 / count, total, g), None

    def zeros(x: Any) -> jax.Array:
        return jnp.zeros_like(x, jnp.promote_types(jnp.result_type(x), jnp.float32))

    return jax.lax.scan(add, jax.tree.map(zeros, params), jnp.arange(count))[0]


@promotion.usual
def refresh_mask(tx: SamTransformation, sam_state: SamState, scores: Any) -> SamState:
    """The state with a new mask: the weights of the largest scores are perturbed from now on.

    Args:
      tx: what `sparse_sam(...)` returns.
      sam_state: its state.
      scores: a tree like the parameters; `empirical_fisher` makes one.

    Returns:
      The state, to go on with.

    Raises:
      TypeError: if `tx` has no mask to be given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.ones(4), lambda w: jnp.sum(w**2) / 2
    >>> tx = lsam.sparse_sam(rho=2.0, sparsity=0.5)
    >>> sam_state = lsam.refresh_mask(tx, tx.init(w), scores=jnp.asarray([4.0, 1.0, 3.0, 2.0]))
    >>> lsam.value_and_grad(loss_fn, tx)(w, sam_state)[1].tolist()  # the first and third are moved
    [2.0, 1.0, 2.0, 1.0]
    """
    refresh = tx.method.perturbation.refresh if isinstance(tx, SamTransformation) else None
    if refresh is None:
        raise TypeError(
            "tx must be what sparse_sam(...) returns, without dynamic: no other method has a mask "
            f"to be given; got {type(tx).__name__}."
        )
    layers = partition(scores, tx.method.layers)
    sam_state = state_of(tx.method, layers, scores, sam_state)
    mask = refresh(layers, layers.leaves(scores))
    mask = jax.tree.map(lay_like, mask, sam_state.memory.perturbation)
    return sam_state._replace(memory=sam_state.memory._replace(perturbation=mask))
