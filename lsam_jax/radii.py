"""A radius of its own for each layer."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax import arguments


class Radii(NamedTuple):
    """The radius of each layer, by its name.

    Attributes:
      of: from a layer's name to its radius: a number or a schedule.
      named: names that must be layers.
    """

    of: Callable[[str], arguments.Scalar]
    named: tuple[str, ...] = ()

    def check(self, names: tuple[str, ...]) -> None:
        """Raises unless it gives a radius for each of these layers, and names no other."""
        for name in self.named:
            if name not in names:
                raise ValueError(
                    f"rho names the layer {name!r}, which does not exist. The layers are: "
                    f"{', '.join(names)}."
                )
        for name in names:
            arguments.check_real(f"rho of {name!r}", self.of(name), low=0.0)

    def by_layer(self, names: tuple[str, ...], count: jax.Array) -> jax.Array:
        """The radii at step `count`, [L]."""
        return jnp.stack([jnp.asarray(arguments.resolve(self.of(n), count)) for n in names])


Radius = arguments.Scalar | Radii
"""What may be given as `rho`: one number or schedule, or one for each layer."""


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

        return Radii(of, tuple(known))
    arguments.check_callable("radii", radii, "Pass a mapping from layer names, or a function.")
    return Radii(radii)
