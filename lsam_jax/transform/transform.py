"""A method as an Optax transformation, from its parts, checked."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np
import optax

from lsam_jax import arguments
from lsam_jax.components.ascent import Ascent, gradient
from lsam_jax.components.cadence import Cadence, always
from lsam_jax.components.combination import Combination, perturbed_only
from lsam_jax.components.descent import Descent, of_loss
from lsam_jax.components.perturbation import Perturbation, normalized
from lsam_jax.components.radius import Radius, as_radii
from lsam_jax.components.selection import as_selector
from lsam_jax.devices import collectives
from lsam_jax.engine.two_losses import AscentLoss
from lsam_jax.engine.untraceable import SIGNS, way_out
from lsam_jax.transform.method import Method, check_climbs_another_loss
from lsam_jax.transform.optax_placement import MISSING, check_placement, explained
from lsam_jax.transform.options import DEFAULTS, EngineOptions, with_options
from lsam_jax.transform.state import SamState
from lsam_jax.transform.step import start, step, step_by_gradient
from lsam_jax.transform.surroundings import check_surroundings
from lsam_jax.transform.untraced_step import untraced_step


class SamTransformation(optax.GradientTransformationExtraArgs):
    """An Optax transformation, `(init, update)`, whose `init` holds its `method`; methods make it.

    `init(params)` gives a `SamState`.
    `update(updates, state, params, *, value_fn=None, grad_fn=None, ascent_fn=None)` takes one of:

    - `value_fn(params) -> loss`: the engine computes both gradients; `updates` is not used (and
      under `jit` XLA does not compute it either).
      `ascent_fn(params) -> loss` beside it, the loss on a part of the batch, is then climbed
      instead (see `ascent_batch` of `value_and_grad`).
    - `grad_fn(params) -> gradient`, any gradient function: `updates` is the gradient at `params`
      and serves as the ascent gradient; `grad_fn` is called once, at the perturbed weights, and
      nothing is skipped. `grad_fn` goes first if both are there. It may take a second argument,
      as in `optax.contrib.sam`, and is then given 0. Methods that need the loss itself refuse it.

    Other keyword arguments are accepted and ignored. It returns the direction of descent
    (which the base optimizer, next in the chain, scales and negates) and the new state.

    In a chain it comes first: what should act on the direction (clipping, weight decay, noise,
    freezing) stands behind it. In front, with `value_fn`, that would do nothing, and a warning
    says so; with `grad_fn` it changes the ascent gradient. `optax.MultiSteps` goes around the base
    optimizer alone, and is refused around a method.

    >>> import jax, jax.numpy as jnp, optax
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> optimizer = optax.chain(lsam.sam(rho=2.5), optax.sgd(1.0))
    >>> state = optimizer.init(w)
    >>> updates, _ = optimizer.update(w, state, w, value_fn=loss_fn)
    >>> updates.tolist()
    [-4.5, -6.0]
    >>> updates, _ = optimizer.update(w, state, w, grad_fn=jax.grad(loss_fn))
    >>> updates.tolist()
    [-4.5, -6.0]
    """

    @property
    def method(self) -> Method:
        """The parts of the method, which its `init` holds.

        Raises:
          TypeError: if `init` is no longer the method's own.
        """
        if not isinstance(self.init, Init):
            raise TypeError(
                f"tx.init is {self.init!r}, not the function that the method made, so what the "
                "method is has been lost: a tree.map or a filter over tx replaced it. Use tx as "
                "the method returned it: keep the original, or rebuild it of its own init and "
                "update."
            )
        return self.init.method

    # Functions are copied as they are, and so is a pair of them: a copy equals the original.
    def __deepcopy__(self, memo: Any) -> "SamTransformation":
        return self


@dataclasses.dataclass(frozen=True, eq=False)  # hashed and compared as functions are
class Init:
    """`init` of a method."""

    method: Method

    def __call__(self, params: Any) -> SamState:
        """The state before the first step."""
        check_placement(params)
        with explained(params):
            return start(self.method, params)


@dataclasses.dataclass(frozen=True, eq=False)
class Update:
    """`update` of a method; see `SamTransformation`."""

    method: Method

    def __call__(
        self,
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value_fn: Callable[..., Any] | None = None,
        grad_fn: Callable[..., Any] | None = None,
        ascent_fn: Callable[..., Any] | None = None,
        **extra_args: Any,
    ) -> tuple[Any, SamState]:
        """The direction of descent, and the new state."""
        del extra_args
        if params is None:
            raise ValueError(
                "params is None, but the perturbation starts from the parameters: call "
                "update(updates, state, params, value_fn=...)."
            )
        check_placement(params)
        if ascent_fn is not None and (value_fn is None or grad_fn is not None):
            raise ValueError(
                "ascent_fn is the loss on a part of the batch, and stands beside value_fn, the "
                "loss on the whole: pass both, and no grad_fn. With grad_fn, pass the gradient of "
                "the part as updates."
            )
        if grad_fn is not None:
            arguments.check_callable("grad_fn", grad_fn, "Pass grad_fn=gradient_of_params.")
            check_surroundings(state, by_loss=False)
            with explained(params):
                return step_by_gradient(self.method, updates, state, params, grad_fn)
        if value_fn is None:
            raise ValueError(MISSING)
        arguments.check_callable("value_fn", value_fn, "Pass value_fn=loss_of_params.")
        check_surroundings(state, by_loss=True)
        ascent = None
        if ascent_fn is not None:
            arguments.check_callable("ascent_fn", ascent_fn, "Pass ascent_fn=loss_of_params.")
            ascent = AscentLoss(ascent_fn)
        with explained(params):
            out = step_of_any(self.method, value_fn, params, state, False, ascent)
        return out[2], out[3]


def transformation(method: Method) -> SamTransformation:
    """The transformation of a method."""
    return SamTransformation(Init(method), Update(method))


def check_method(tx: Any) -> None:
    """Raises a TypeError unless `tx` is what a method returns."""
    if not isinstance(tx, SamTransformation):
        raise TypeError(
            f"tx must be what layerwise_sam(...) returns; got {type(tx).__name__}. Keep the SAM "
            "transformation apart from the base optimizer: chain nothing to it here."
        )


@with_options
def method(
    *,
    rho: Radius,
    alpha: arguments.Scalar = 1.0,
    ascent: Ascent = gradient,
    perturbation: Perturbation = normalized,
    descent: Descent = of_loss,
    combination: Combination = perturbed_only,
    when: Cadence = always,
    **options: Unpack[EngineOptions],
) -> SamTransformation:
    """The method of these parts; with none but `rho`, SAM.

    It works in `value_and_grad` and in a chain, on several devices, with schedules, as every method
    here does, and costs what its parts need: the engine skips what both passes share.

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      alpha: the weight that the combination uses; a number or a schedule.
      ascent: uphill by what.
      perturbation: how far the weights move.
      descent: what the second pass differentiates.
      combination: what is descended.
      when: which steps perturb.
      **options: `k`, `selection` (by default "all"), `layers` (by default "array"), `norm_decay`,
        `select_every`, `cuts`, `gate`, `axis_name` and `perturbation_sync`, as for `layerwise_sam`.

    Raises:
      ValueError, TypeError: for an argument out of its range or of another kind, naming it.

    >>> from lsam_jax import components
    >>> sam = components.method(rho=0.05)
    >>> late = components.method(rho=0.05, when=components.between(7 / 8, 1, steps=1000))
    >>> components.method(rho=0.05, when=0.5)
    Traceback (most recent call last):
    TypeError: when must be a Cadence; got 0.5.
    """
    parts = (ascent, Ascent), (perturbation, Perturbation), (descent, Descent)
    for part, kind in (*parts, (combination, Combination), (when, Cadence)):
        if not isinstance(part, kind):
            name = "when" if kind is Cadence else kind.__name__.lower()
            raise TypeError(f"{name} must be a {kind.__name__}; got {part!r}.")
    radius, given = as_radii("rho", rho), _checked(options)
    arguments.check_real("alpha", alpha)
    return transformation(
        Method(
            layers=given["layers"],
            selector=as_selector(given["selection"]),
            k=given["k"],
            ascent=ascent,
            perturbation=perturbation,
            rho=radius,
            descent=descent,
            combination=combination,
            alpha=alpha,
            cadence=when,
            norm_decay=given["norm_decay"],
            select_every=given["select_every"],
            cuts=given["cuts"],
            gate=given["gate"],
            axes=collectives.axes(given["axis_name"], given["perturbation_sync"]),
        )
    )


def _checked(options: EngineOptions) -> EngineOptions:
    """The options with their defaults."""
    given: EngineOptions = {**DEFAULTS, **options}
    k, gate = given["k"], given["gate"]
    if k is None and as_selector(given["selection"]).score is not None:
        raise ValueError("k is None, but this selection needs a number of layers; pass k=4, say.")
    if k is not None:
        arguments.check_count("k", k, low=0)
    arguments.check_number("norm_decay", given["norm_decay"], low=0.0, below=1.0)
    arguments.check_number("select_every", given["select_every"])
    arguments.check_count("select_every", given["select_every"], low=1)
    arguments.check_cuts(given["cuts"])
    if not (gate is None or isinstance(gate, bool | np.bool_)):
        raise ValueError(f"gate must be True, False or None (by platform); got gate={gate!r}.")
    return {**given, "gate": None if gate is None else bool(gate)}


def step_of_any(
    method: Method,
    loss_fn: Callable[[Any], Any],
    params: Any,
    state: Any,
    has_aux: bool,
    ascent: AscentLoss | None = None,
) -> tuple[Any, Any, Any, SamState]:
    """`step`, by the engine if that can be."""
    if ascent is not None:
        check_climbs_another_loss(method)
    try:
        return step(method, loss_fn, params, state, has_aux, ascent)
    except SIGNS as error:
        reason = way_out(error)
    # Outside of the handler, so that an error of the loss is shown as `jax.grad` would show it.
    return untraced_step(method, loss_fn, params, state, has_aux, ascent, reason)
