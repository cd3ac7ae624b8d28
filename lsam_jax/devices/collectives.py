"""Named axes of devices: what is averaged over them, and when.

All that the package knows of collectives is here. A step is one program that every device runs on
its own part of the batch; the loss of a device is the mean over that part. Two functions make it a
step on the whole batch, and neither the engine nor a method notices:

- `with_mean_gradient`, on the parameters of the loss: as they are, but the gradient that comes back
  is the mean of those of the devices. So a gradient that nobody asks for is not sent either, and
  one that a conditional skips is skipped with its collective.
- `mean_loss`, on its value: the mean loss, whose gradient each device takes of its own.

Whether a loss averages itself (`lax.pmean`) makes no difference then. Written by hand, it does:
`pmap` and `shard_map(check_vma=False)` do not average the gradient of such a loss, and
`shard_map(check_vma=True)` sums the gradient of one that does not.

Where devices perturb apart (m-sharpness; Foret et al. 2021, section 4.1), each takes the step
alone, and what the step comes to is averaged once, at its end.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lsam_jax.devices import shardings

AxisName = str | Sequence[str] | None
PerturbationSync = str | int | Sequence[str]
MICRO_BATCH = "micro_batch"
"""The axis of the parts of a batch on one device; see `value_and_grad`."""


class Axes(NamedTuple):
    """The axes of devices that take a step together; static.

    Attributes:
      names: over which loss and gradients are averaged; none on one device.
      shared: those of them along which the perturbation is the same.
      group: how many neighbours along the only axis share a perturbation; None if `shared` says it.
    """

    names: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    group: int | None = None

    @property
    def apart(self) -> bool:
        """Whether devices may perturb differently."""
        return bool(self.separate)

    @property
    def separate(self) -> tuple[str, ...]:
        """The axes along which they may."""
        return tuple(name for name in self.names if name not in self.shared)

    @property
    def shares(self) -> bool:
        """Whether there are devices that share a perturbation."""
        return self.group is not None or bool(self.shared)

    def with_micro_batches(self) -> "Axes":
        """The same where each device has parts of its batch that perturb apart."""
        return self._replace(names=(*self.names, MICRO_BATCH))

    def check_bound(self) -> None:
        """Raises unless the axes exist where this is called, and JAX can average over them."""
        for name in self.names:
            try:
                size = lax.axis_size(name)
            except NameError:
                raise ValueError(
                    f"axis_name={name!r} is no axis here. Call the step under jax.pmap or "
                    "jax.shard_map with an axis of that name; under jax.jit with sharded arrays "
                    "leave axis_name out."
                ) from None
            if self.group is not None and name == self.names[0] and size % self.group:
                raise ValueError(
                    f"perturbation_sync={self.group} does not divide the {size} devices of the "
                    f"axis {name!r} into groups."
                )
            if MICRO_BATCH in self.names and _is_checked(name):
                raise ValueError(
                    "m=... needs an average over parts of the batch, and JAX has none of a vmapped "
                    "axis inside jax.shard_map(check_vma=True): pass check_vma=False, or use "
                    "jax.jit with a sharded batch."
                )

    def per_device_params(self, leaves: Sequence[Any]) -> list[Any]:
        """The parameters of this step: each device's own, where devices perturb apart."""
        return [_varying(x, self.separate) for x in leaves]

    def as_local(self, leaves: Sequence[Any]) -> list[Any]:
        """The parameters as each device's own: gradients with respect to them are, too."""
        return [_varying(x, self.names) for x in leaves]

    def are_local(self, gradients: Sequence[Any]) -> bool:
        """Whether they are each device's own, or may be: JAX has not summed them for certain."""
        names = [name for name in self.names if _is_checked(name)]
        return all(name in _varies_over(x) for name in names for x in gradients)

    def with_mean_gradient(self, leaves: Sequence[Any]) -> list[Any]:
        """The parameters as a loss takes them: a gradient with respect to them is the mean."""
        return [_enter(self, x) for x in leaves] if self.shares else list(leaves)

    def mean_loss(self, loss: Any) -> Any:
        """The mean of the loss over the devices that share a perturbation."""
        return _leave(self, _varying(loss, self.shared or self.names))

    def mean(self, tree: Any) -> Any:
        """The mean over the devices that share a perturbation."""
        if self.group is not None:
            return jax.tree.map(partial(_group_mean, self.names[0], self.group), tree)
        return (
            jax.tree.map(partial(lax.pmean, axis_name=self.shared), tree) if self.shared else tree
        )

    def average(self, tree: Any) -> Any:
        """The mean over devices that perturb apart, of what is not the same for all anyway.

        That is numbers: flags and counts are made from what all devices know.
        """
        if not self.apart:
            return tree
        leaves, treedef = jax.tree.flatten(tree)
        index = [n for n, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]
        for n, x in zip(index, _pmean([leaves[n] for n in index], self.separate)):
            leaves[n] = x
        return jax.tree.unflatten(treedef, leaves)


def axes(axis_name: AxisName, perturbation_sync: PerturbationSync) -> Axes:
    """What the arguments of a method say.

    Raises:
      ValueError, TypeError: unless `axis_name` is None, a name or names, and `perturbation_sync`
        "global", "replica", a whole number or some of these names.
    """
    names = _names("axis_name", () if axis_name is None else axis_name)
    sync = perturbation_sync
    if isinstance(sync, bool) or not isinstance(sync, str | int | tuple | list):
        raise TypeError(
            'perturbation_sync must be "global", "replica", a number of devices or names of axes; '
            f"got perturbation_sync={sync!r}."
        )
    if sync == "global":
        return Axes(names, names)
    if not names:
        raise ValueError(
            f"perturbation_sync={sync!r} needs axis_name, the axis of the devices that it is "
            "about. On one device, value_and_grad(..., m=...) gives parts of the batch "
            "perturbations of their own."
        )
    if sync == "replica":
        return Axes(names)
    if isinstance(sync, int):
        if sync < 1 or len(names) > 1:
            raise ValueError(
                f"perturbation_sync={sync} must be a number of neighbours, at least 1, along one "
                f"axis; got axis_name={axis_name!r}."
            )
        return Axes(names, (), sync)
    shared = _names("perturbation_sync", sync)
    for name in shared:
        if name not in names:
            raise ValueError(
                f'perturbation_sync={sync!r} must be "global", "replica", a number of devices, '
                f"or among the axes of axis_name={axis_name!r}."
            )
    return Axes(names, tuple(name for name in names if name in shared))


def zeros_like_type(aval: Any) -> jax.Array:
    """Zeros of a type, lying as it says and varying over the axes that it varies over."""
    zeros = jnp.zeros(aval.shape, aval.dtype, out_sharding=shardings.explicit(aval))
    return _varying(zeros, tuple(_of_type(aval)))


def check_loss(loss: Any, params: Sequence[Any], names: Sequence[str]) -> None:
    """Raises if JAX would sum gradients over devices in silence.

    Args:
      loss: the loss, or its type.
      params: what it is differentiated with respect to.
      names: the axes that the method knows of.
    """
    common = frozenset[str].intersection(*map(_varies_over, params)) if params else frozenset()
    for name in sorted(_of_type(loss) - common - {*names}):
        raise ValueError(
            f"The loss differs between the devices of the axis {name!r} and the parameters do "
            "not: jax.shard_map would sum the gradients, not average them. Pass "
            f"axis_name={name!r} to the method, or return lax.pmean(loss, {name!r})."
        )


def _names(argument: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument} must be a name or names of axes; got {argument}={value!r}.")
    return tuple(names)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _enter(among: Axes, x: Any) -> Any:
    return _varying(x, among.shared)


def _enter_forward(among: Axes, x: Any) -> tuple[Any, None]:
    return _varying(x, among.shared), None


def _enter_backward(among: Axes, _: None, gradient: Any) -> tuple[Any]:
    return (among.mean(gradient),)


_enter.defvjp(_enter_forward, _enter_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _leave(among: Axes, loss: Any) -> Any:
    return among.mean(loss)


def _leave_forward(among: Axes, loss: Any) -> tuple[Any, None]:
    return among.mean(loss), None


def _leave_backward(among: Axes, _: None, gradient: Any) -> tuple[Any]:
    return (_varying(gradient, among.shared),)


_leave.defvjp(_leave_forward, _leave_backward)


def _group_mean(name: str, size: int, x: jax.Array) -> jax.Array:
    devices = range(lax.axis_size(name))
    groups = [list(devices[i : i + size]) for i in devices[::size]]
    if _is_checked(name):  # which knows no psum of groups
        return jnp.mean(lax.all_gather(x, name, axis_index_groups=groups), axis=0)
    return lax.psum(x, name, axis_index_groups=groups) / size


def _pmean(arrays: list[Any], names: tuple[str, ...]) -> list[Any]:
    if MICRO_BATCH in names and any(map(shardings.explicit, arrays)):
        # JAX (0.7 to 0.12) fails to lower a psum of explicitly sharded arrays over a vmapped axis.
        arrays = [jnp.mean(lax.all_gather(x, MICRO_BATCH), axis=0) for x in arrays]
        names = tuple(name for name in names if name != MICRO_BATCH)
    return lax.pmean(arrays, names) if names else arrays


def _varying(x: Any, names: Sequence[str]) -> Any:
    """`x`, typed as varying over these axes; only `shard_map(check_vma=True)` has such types."""
    missing = tuple(n for n in names if n not in _varies_over(x) and _is_checked(n))
    if not missing:
        return x
    if hasattr(lax, "pcast"):
        return lax.pcast(x, missing, to="varying")
    return lax.pvary(x, missing)  # type: ignore[attr-defined]  # of a JAX before 0.8


def _is_checked(name: str) -> bool:
    """Whether JAX keeps track of what varies over an axis."""
    return name in _varies_over(lax.axis_index(name))


def _varies_over(x: Any) -> frozenset[str]:
    return _of_type(jax.typeof(x))


def _of_type(kind: Any) -> frozenset[str]:
    # The attribute of the type of an array was renamed between jax 0.7.2 and 0.10.
    found = getattr(kind, "manual_axis_type", None)
    return getattr(kind, "vma", frozenset()) if found is None else found.varying
