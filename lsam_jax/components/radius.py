"""How far: the radius of a step, a part of every method.

A number or a schedule is a radius, and so are the parts here: one for each layer, or one that the
gradient bounds; `rise` makes one that sets itself. A radius is asked once the step knows its ascent
gradient, in front of the perturbation, and may remember something from step to step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays.vectors import squared_norm
from lsam_jax.components.context import Arrays, Effect, StepContext, Targets, remember_nothing
from lsam_jax.layers.leaves import Layers


class Radii(NamedTuple):
    """A radius, made by `per_layer`, `bounded` or `rise`.

    Attributes:
      of: `(g, at, now, memory) -> rho`, a scalar or one for each layer, [L]: from the ascent
        gradients of the arrays that may move (zero where a layer is not selected), where these
        belong, and the step; `now.rho` is not known yet.
      check: raises unless it fits layers of these names.
      init: makes its memory from the layers and the leaves of the parameters.
      update: the memory after a step, from `(memory, effect, now)`.
      recover: the memory after a step whose loss or gradient is not finite, from the one before.
      needs_loss: whether a step by gradients alone will not do.
    """

    of: Callable[[Arrays, Targets, StepContext, Any], Any]
    check: Callable[[tuple[str, ...]], None] = lambda names: None
    init: Callable[[Layers, Sequence[Any]], Any] = remember_nothing
    update: Callable[[Any, Effect, StepContext], Any] = lambda memory, effect, now: memory
    recover: Callable[[Any], Any] = lambda memory: memory
    needs_loss: bool = False


Radius = arguments.Scalar | Radii
"""What may be given as `rho`: one number or schedule, or a part."""


def as_radii(name: str, radius: Any) -> Radii:
    """The part that the user may have written as a number or a schedule.

    Raises:
      TypeError, ValueError: unless it is a part, a schedule or a number of at least 0.
    """
    if isinstance(radius, Radii):
        return radius
    arguments.check_real(name, radius, low=0.0)
    return Radii(lambda g, at, now, memory: arguments.resolve(radius, now.count))


def bounded(sigma: arguments.Scalar, rho_max: Any) -> Radii:
    """A radius bound to the gradient, to be given as `rho` to any method (LE-SAM).

    rho_t = min(sigma / ||g||, rho_max), with g the ascent gradient of the arrays that the step
    moves. With SAM sigma is then what the perturbation adds to the loss, to first order, while
    sigma / ||g|| is below rho_max. https://arxiv.org/abs/2605.10183

    ||g|| is that of the gradient itself in every method: not scaled as in ASAM, over all selected
    layers with `normalize="layer"`, and that of the momentum in Momentum-SAM. Where devices or
    parts of a batch perturb apart, each has a radius by its own gradient. Under loss scaling by c,
    pass c sigma.

    Args:
      sigma: at least 0; a number or a schedule, e.g. one that ends at 0, as in
        `lsam_jax.presets.le_sam`. With 0 nothing moves.
      rho_max: the largest radius; a number, a schedule, or `per_layer` radii.

    Raises:
      ValueError, TypeError: if one of the two is out of its range.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> for sigma in (5.0, 100.0):
    ...     tx = lsam.sam(rho=lsam.bounded(sigma, rho_max=2.5))
    ...     loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    ...     print([round(x, 2) for x in direction.tolist()])  # moved by 5 / 5, and by 2.5
    [3.6, 4.8]
    [4.5, 6.0]
    """
    arguments.check_real("sigma", sigma, low=0.0)
    largest = as_radii("rho_max", rho_max)

    def of(g: Arrays, at: Targets, now: StepContext, memory: Any) -> Any:
        square = squared_norm(g)
        # Not sigma / 0, which is no number where sigma is 0 too.
        norm = jnp.sqrt(jnp.where(square == 0, 1, square))
        by_gradient = arguments.resolve(sigma, now.count) / norm
        bound = largest.of(g, at, now, memory)
        return jnp.where(square == 0, bound, jnp.minimum(by_gradient, bound))

    return largest._replace(of=of)


def per_layer(
    radii: Mapping[str, Any] | Callable[[str], Any], default: arguments.Scalar | None = None
) -> Radii:
    """A radius of its own for each layer, to be given as `rho` to any method.

    Layer i moves by `rho_i` where a method would move it by `rho`: with SAM,
    `eps_i = rho_i g_i / ||g||`, the norm over all layers. So layer-wise scaling as in muP^2 (Haas
    et al. 2024, https://arxiv.org/abs/2411.00075), whose radius is a base radius times a power of
    the layer's width, is a function from names to numbers.

    Args:
      radii: a mapping from layer names (as `layer_names` gives them) to radii, or a function from
        a name to one; a radius is a number, at least 0, or a schedule.
      default: the radius of a layer that the mapping does not name.

    Raises:
      TypeError: if `radii` is neither.
      ValueError: when first used, if a layer has no radius, or a name is not a layer.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"a": jnp.asarray(3.0), "b": jnp.asarray(4.0)}
    >>> loss_fn = lambda p: (p["a"] ** 2 + p["b"] ** 2) / 2
    >>> tx = lsam.sam(rho=lsam.per_layer({"b": 2.5}, default=0.0))
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(params, tx.init(params))
    >>> float(direction["a"]), float(direction["b"])  # b moves by 2.5 * 4 / 5
    (3.0, 6.0)
    >>> width = {"stem/w": 64, "head/w": 1024}
    >>> tx = lsam.sam(rho=lsam.per_layer(lambda name: 0.05 * (width[name] / 64) ** 0.5))
    """
    if isinstance(radii, Mapping):
        known = dict(radii)

        def of(name: str) -> Any:
            radius = known.get(name, default)
            if radius is None:
                raise ValueError(
                    f"rho gives no radius for the layer {name!r}; name it, or pass "
                    "per_layer(..., default=0.05)."
                )
            return radius

        return _by_name(of, tuple(known))
    arguments.check_callable("radii", radii, "Pass a mapping from layer names, or a function.")
    return _by_name(radii, ())


def _by_name(radius: Callable[[str], arguments.Scalar], named: tuple[str, ...]) -> Radii:
    def check(names: tuple[str, ...]) -> None:
        arguments.check_layer_names("rho", named, names)
        for name in names:
            arguments.check_real(f"rho of {name!r}", radius(name), low=0.0)

    def of(g: Arrays, at: Targets, now: StepContext, memory: Any) -> jax.Array:
        radii = [arguments.resolve(radius(name), now.count) for name in now.layers.names]
        return jnp.stack([jnp.asarray(x) for x in radii])

    return Radii(of, check)
