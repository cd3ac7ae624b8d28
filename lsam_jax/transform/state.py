"""The state of a SAM transformation: made, checked, advanced."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsam_jax import arguments
from lsam_jax.components.context import Effect
from lsam_jax.layers.leaves import Layers
from lsam_jax.transform.restored_state import rebuilt


class Memory(NamedTuple):
    """What the parts of a method remember; `()` for a part that remembers nothing.

    Attributes:
      selection: e.g. the probabilities of a bandit.
      ascent: e.g. a momentum.
      perturbation: e.g. a mask.
      combination: e.g. LookSAM's direction.
      cadence: e.g. AE-SAM's running mean and variance.
      radius: what a radius learns from step to step.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.momentum_sam(rho=0.1)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> sam_state.memory.ascent.tolist()  # the momentum
    [3.0, 4.0]
    >>> sam_state.memory.cadence
    ()
    """

    selection: Any = ()
    ascent: Any = ()
    perturbation: Any = ()
    combination: Any = ()
    cadence: Any = ()
    radius: Any = ()


class SamState(NamedTuple):
    """State of a SAM transformation over L layers.

    Attributes:
      count: i32[], steps taken.
      norms: f32[L], the gradient norm of each layer, of the last descent gradient (or its running
        mean); the next selection is made from these. Only finite values enter.
      selected: bool[L], the layers that the last step perturbed.
      perturbations: i32[L], how often each layer was perturbed (the paper's Figure 5).
      sharpness: f32[], perturbed minus clean loss of the last step that perturbed. Where one of
        the two is not known (`grad_fn`, Momentum-SAM), its first-order estimate, the inner
        product of gradient and perturbation.
      memory: a `Memory`, what the method itself remembers. Only finite steps enter, but for the
        account of `price`; others halve the radius of `rise`.
      rho: f32[], the radius of the last step that perturbed; the largest, if layers have their own.
      rise: f32[], of the last step that perturbed: `<grad L(w + eps), eps>`, the inner product of
        descent gradient and perturbation. On the batch that is descended it says whether the
        radius matters; see `rise`.

    Norms, sharpness and rise are those of the loss as it is given: scaled, if it is.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.sam(rho=2.5)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> int(sam_state.count), sam_state.norms.tolist(), sam_state.perturbations.tolist()
    (1, [7.5], [1])
    >>> float(sam_state.sharpness)  # (7.5**2 - 5**2) / 2
    15.625
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as Optax's states do
    norms: jax.Array
    selected: jax.Array
    perturbations: jax.Array
    sharpness: jax.Array
    memory: Any = Memory()
    rho: Any = np.float32(0)
    rise: Any = np.float32(0)


class Outcome(NamedTuple):
    """What a step comes to, on all devices together.

    Attributes:
      direction: of descent, one array for each leaf.
      norms: f32[L], of the descent gradient.
      selected: bool[L], the layers that were perturbed.
      sharpness: f32[]; a first-order estimate, unless the losses are known.
      rho: f32[], the radius; the largest, if layers have their own, and the mean over devices.
      rise: f32[], the inner product of descent gradient and perturbation.
      effect: what the radius learns from.
      finite: bool[], whether what is known of the losses is finite.
      memory: what the parts would remember, but for the radius; a step that is not finite is
        forgotten.
    """

    direction: list[Any]
    norms: jax.Array
    selected: jax.Array
    sharpness: jax.Array
    rho: Any
    rise: Any
    effect: Effect
    finite: jax.Array
    memory: Memory


def initial_state(layers: Layers, memory: Memory) -> SamState:
    """The state before the first step."""
    length = len(layers.names)
    return SamState(
        count=jnp.zeros((), jnp.int32),
        norms=jnp.zeros(length, jnp.float32),
        selected=jnp.zeros(length, bool),
        perturbations=jnp.zeros(length, jnp.int32),
        sharpness=jnp.zeros((), jnp.float32),
        memory=memory,
        rho=jnp.zeros((), jnp.float32),
        rise=jnp.zeros((), jnp.float32),
    )


def check_kind(state: Any, name: str = "state") -> None:
    """Raises a TypeError, by the name of the argument, unless `state` is a SamState."""
    if not isinstance(state, SamState):
        raise TypeError(
            f"{name} must be the SamState of this transformation; got {type(state).__name__}. "
            "It is tx.init(params), or this transformation's member of a chain's state."
        )


def check_state(state: Any, layers: Layers, memory: Any) -> SamState:
    """Raises unless `state` is one for these layers and has a memory of shapes like `memory`.

    Dictionaries of the arrays of one, as a file gives them that is read without a target, become
    one.
    """
    if isinstance(state, Mapping):
        try:
            like = SamState(0, 0, 0, 0, 0, memory)  # type: ignore[arg-type]
            # Those of before lack the last fields.
            state = rebuilt({**SamState._field_defaults, **state}, like)
        except LookupError as error:
            raise ValueError(
                "state is a dictionary, as Orbax restores one without a target, but does not hold "
                f"what this method remembers of these parameters: {error}. Restore it into a state "
                "of the same kind, args=ocp.args.StandardRestore(tx.init(params)), or make a new "
                "one with tx.init(params)."
            ) from error
    check_kind(state)
    if jnp.shape(state.norms) != (len(layers.names),):
        raise ValueError(
            f"state holds {jnp.size(state.norms)} layers, but params and layers give "
            f"{len(layers.names)} ({', '.join(layers.names)}): it was made for other parameters. "
            "Make a new one with tx.init(params)."
        )
    found: Any = jax.tree.structure(state.memory)
    expected: Any = jax.tree.structure(memory)
    if found != expected:
        raise ValueError(
            f"state remembers {found}, but this method remembers {expected}: it was made by "
            "another method, or for other parameters. Make a new one with tx.init(params)."
        )
    remembered = jax.tree_util.tree_leaves_with_path(state.memory)
    for (path, x), like in zip(remembered, jax.tree.leaves(memory)):
        if np.shape(x) != like.shape:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"state holds an array of shape {np.shape(x)} at memory/{where}, where these "
                f"params need {like.shape}: it was made for other parameters. Make a new one with "
                "tx.init(params)."
            )
    return state


def advance(
    state: SamState, out: Outcome, decay: Any, learn: Callable[[jax.Array], Any]
) -> SamState:
    """The state after a step.

    Args:
      state: the state before it.
      out: what it came to. If its losses or norms are not finite, the old norms stay, so that one
        bad batch does not decide later steps.
      decay: of the running mean of the norms.
      learn: what the radius remembers, from whether the step is finite.
    """
    mean = out.norms
    if not arguments.equals(decay, 0.0):
        seen = jnp.any(state.norms > 0)
        mean = jnp.where(seen, decay * state.norms + (1 - decay) * out.norms, out.norms)
    finite = out.finite & jnp.all(jnp.isfinite(out.norms))
    memory = keep_unless(finite, state.memory, out.memory)
    return SamState(
        count=optax.safe_increment(state.count),
        norms=jnp.where(finite, mean, state.norms).astype(jnp.float32),
        selected=out.selected,
        perturbations=state.perturbations + out.selected.astype(jnp.int32),
        sharpness=jnp.asarray(out.sharpness, jnp.float32),
        memory=memory._replace(radius=learn(finite)),
        rho=jnp.asarray(out.rho, jnp.float32),
        rise=jnp.asarray(out.rise, jnp.float32),
    )


def keep_unless(finite: jax.Array, old: Any, new: Any) -> Any:
    """The new arrays where the step was finite, else the old, in whose types they are."""
    return jax.tree.map(lambda old, new: jnp.where(finite, new, old).astype(old.dtype), old, new)
