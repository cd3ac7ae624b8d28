"""Losses that can be taken apart, for methods that need a part of them.

Both kinds are functions like any other loss, and every method takes them; `functional_sam` needs
the first, `esam` the second.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lsam_jax.arguments import check_argnums, check_callable
from lsam_jax.arrays.promotion import InParts
from lsam_jax.devices.shardings import row_parts, take_rows
from lsam_jax.engine.auxiliary import Pair


@dataclasses.dataclass(frozen=True, eq=False)  # not a tuple: jax.jit must be able to refer to it
class SplitLoss(InParts):
    """A loss in two parts, `loss(outputs(params, ...), ...)`; made by `split_loss`."""

    outputs: Callable[..., Any]
    loss: Callable[..., Any]

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss, or loss and aux."""
        return self.loss(self.outputs(params, *args, **kwargs), *args, **kwargs)

    def at(self, *args: Any, **kwargs: Any) -> "SplitLoss":
        """The same on a batch: a function of the parameters alone, to be given as `value_fn`."""
        return SplitLoss(
            lambda params: self.outputs(params, *args, **kwargs),
            lambda outputs: self.loss(outputs, *args, **kwargs),
        )


def split_loss(outputs: Callable[..., Any], loss: Callable[..., Any]) -> SplitLoss:
    """A loss in two parts: what the network says, and how bad that is.

    Args:
      outputs: `outputs(params, *args, **kwargs)`, the network's outputs: an array or a pytree.
      loss: `loss(outputs, *args, **kwargs)`, a real scalar, or `(loss, aux)`.

    Returns:
      A loss function, `loss(outputs(params, ...), ...)`, with a method `.at(*args)`: the same on a
      batch, to be given as `value_fn`.

    Raises:
      TypeError: if one of the two is not a function.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> loss_fn = lsam.split_loss(lambda w, x, y: x @ w, lambda out, x, y: jnp.mean((out - y) ** 2))
    >>> float(loss_fn(jnp.ones(2), jnp.ones((3, 2)), jnp.zeros(3)))
    4.0
    """
    check_callable("outputs", outputs, "Pass the function from parameters to outputs.")
    check_callable("loss", loss, "Pass the function from outputs to the loss.")
    return SplitLoss(outputs, loss)


@dataclasses.dataclass(frozen=True, eq=False)
class PerSample(InParts):
    """A loss that is a mean over samples; made by `per_sample`."""

    losses: Callable[..., Any]
    argnums: tuple[int, ...]
    args: tuple[Any, ...] = ()
    kwargs: Any = None

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """The mean loss, or mean loss and aux."""
        out = self.at(*args, **kwargs).each(params)
        return (jnp.mean(out[0]), out[1]) if isinstance(out, Pair) else jnp.mean(out)

    def at(self, *args: Any, **kwargs: Any) -> "PerSample":
        """The same on a batch: a function of the parameters alone, to be given as `value_fn`."""
        return dataclasses.replace(
            self, args=(*self.args, *args), kwargs={**(self.kwargs or {}), **kwargs}
        )

    def each(self, params: Any) -> Any:
        """The loss of each sample, [B], or these and aux."""
        return self.losses(params, *self.args, **(self.kwargs or {}))

    @property
    def parts(self) -> int:
        """Into how many equal parts the types of the samples say that they are dealt out."""
        if max(self.argnums) > len(self.args):
            raise ValueError(
                f"argnums={self.argnums} of per_sample is beyond the {len(self.args) + 1} "
                "arguments that were passed by position: pass the samples by position."
            )
        arrays = jax.tree.leaves([self.args[n - 1] for n in self.argnums])
        return math.lcm(*map(row_parts, arrays))

    def of(self, samples: jax.Array) -> "PerSample":
        """The same loss on some samples of the batch, given by their indices.

        The loss may lay the samples along a mesh, so there must be a multiple of `parts`.
        """
        args = list(self.args)
        for n in self.argnums:
            args[n - 1] = jax.tree.map(lambda x: take_rows(x, samples), args[n - 1])
        return dataclasses.replace(self, args=tuple(args))


def per_sample(losses: Callable[..., Any], argnums: int | tuple[int, ...] = 1) -> PerSample:
    """A loss that is the mean over samples, of which a method may take some alone.

    Args:
      losses: `losses(params, *args, **kwargs)`, an array [B], or `(losses, aux)`.
      argnums: the positions (0 being that of `params`) of the arguments that hold the samples;
        the first axis of every array in them is that of the samples.

    Returns:
      A loss function, the mean of `losses`, with a method `.at(*args)`: the same on a batch, to
      be given as `value_fn`.

    Raises:
      TypeError: if `losses` is not a function.
      ValueError: if `argnums` are not positions from 1 on.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> loss_fn = lsam.per_sample(lambda w, x, y: (x @ w - y) ** 2, argnums=(1, 2))
    >>> float(loss_fn(jnp.ones(2), jnp.ones((3, 2)), jnp.zeros(3)))
    4.0
    """
    check_callable("losses", losses, "Pass the function that gives the loss of each sample.")
    return PerSample(losses, check_argnums("argnums", argnums))
