"""Checks of what the user wrote, before anything is computed."""

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Scalar = float | jax.Array | Callable[[Any], Any]
"""A number, an array of rank 0 (traced or not), or an Optax schedule of the step count."""


def is_concrete(value: Any) -> bool:
    """Whether `value` is a number known now: neither a schedule nor a traced array."""
    return not callable(value) and not isinstance(value, jax.core.Tracer)


def check_real(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
    infinite: bool = False,
) -> None:
    """Raises unless `value` is a schedule, a traced scalar, or a number within the bounds.

    The bounds are low <= value <= most and above < value < below; the number must be finite
    unless `infinite`.
    """
    if callable(value):
        return
    kind = dtype_of(value)
    is_real = jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating)
    if not is_real or np.ndim(value) != 0:
        raise TypeError(f"{name} must be a real number or an Optax schedule; got {value!r}.")
    if isinstance(value, jax.core.Tracer):
        return
    number = float(value)
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise ValueError(f"{name} must be finite; got {name}={number}.")
    limits = [
        (low <= number, low, "at least"),
        (number <= most, most, "at most"),
        (above < number or math.isinf(above), above, "above"),
        (number < below or math.isinf(below), below, "below"),
    ]
    if not all(holds for holds, _, _ in limits):
        bounds = " and ".join(f"{word} {x:g}" for _, x, word in limits if math.isfinite(x))
        raise ValueError(f"{name} must be {bounds}; got {name}={number:g}.")


def dtype_of(value: Any) -> Any:
    """The type of a number or an array; that of objects for what is neither."""
    try:
        return getattr(value, "dtype", None) or np.asarray(value).dtype
    except ValueError:  # rows of different lengths
        return np.dtype(object)


def check_number(name: str, value: Any, **bounds: Any) -> None:
    """As `check_real`, of what no schedule may stand for."""
    if callable(value):
        raise TypeError(f"{name} must be a number, not a schedule; got {name}={value!r}.")
    check_real(name, value, **bounds)


def check_plain(name: str, value: Any, **bounds: Any) -> None:
    """As `check_number`, of what must be known before a step is compiled."""
    check_number(name, value, **bounds)
    if not is_concrete(value):
        raise TypeError(f"{name} must be a plain number, not a traced one; got {name}={value!r}.")


def check_static(name: str, value: Any, decides: str, **bounds: Any) -> None:
    """As `check_real`, of what must be known before a step is compiled, as it decides something."""
    check_real(name, value, **bounds)
    if not is_concrete(value):
        raise TypeError(f"{name} {decides}, so it must be a plain number.")


def check_share(name: str, value: Any) -> None:
    """Raises unless `value` is a schedule, a traced scalar, or a number in (0, 1]."""
    check_real(name, value, above=0.0, most=1.0)


def check_count(name: str, value: Any, *, low: int) -> None:
    """Raises unless `value` is a schedule, a traced scalar, or a whole number of at least `low`."""
    check_real(name, value, low=low)
    if is_concrete(value) and float(value) != int(value):
        raise ValueError(f"{name} must be a whole number; got {name}={float(value):g}.")


def check_truth(name: str, value: Any) -> None:
    """Raises a TypeError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {name}={value!r}.")


def static_int(value: Any) -> int | None:
    """The value of a Python or NumPy integer; None for what may change from step to step."""
    if value is None or callable(value) or isinstance(value, jax.Array):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return int(value) if float(value).is_integer() else None


def resolve(value: Scalar, count: jax.Array) -> Any:
    """The number that `value` stands for at step `count`.

    Raises:
      TypeError: for a schedule that gives something else.
    """
    number = value(count) if callable(value) else value
    if np.ndim(number) != 0:
        raise TypeError(
            f"A schedule must give one number at each step; {value!r} gave an array of shape "
            f"{np.shape(number)}."
        )
    return number


def resolve_whole(value: Scalar, count: jax.Array) -> Any:
    """The whole number, at least 1, that `value` stands for at step `count`, rounded down."""
    number = resolve(value, count)
    if isinstance(number, int | np.integer):
        return number
    return jnp.maximum(jnp.asarray(number).astype(jnp.int32), 1)


def equals(value: Any, number: float) -> bool:
    """Whether `value` is this number, and known before the step is compiled."""
    return isinstance(value, int | float | np.number) and float(value) == number


def check_callable(name: str, value: Any, way_out: str) -> Callable[..., Any]:
    """Raises a TypeError with the way out unless `value` can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function; got {type(value).__name__}. {way_out}")
    return value


def takes(fun: Any, count: int, unsaid: bool) -> bool:
    """Whether a function takes so many arguments; `unsaid` for one without a signature."""
    try:
        inspect.signature(fun).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin
        return unsaid
    return True


def check_argnums(name: str, argnums: Any, of_params: Sequence[int] = (0,)) -> tuple[int, ...]:
    """The positions of arguments of a loss, other than those of its parameters.

    Raises:
      ValueError: unless they are.
    """
    try:
        places = tuple(map(operator.index, argnums if np.iterable(argnums) else (argnums,)))
    except TypeError:
        places = ()
    if not places or not all(n >= 0 and n not in of_params for n in places):
        there = "from 1 on" if tuple(of_params) == (0,) else "from 0 on, other than these"
        taken = ", ".join(map(str, of_params))
        raise ValueError(
            f"{name} must be positions {there} ({taken} is that of params); got {name}={argnums!r}."
        )
    return places


Cuts = str | int | Sequence[str]


def check_cuts(cuts: Any) -> None:
    """Raises unless `cuts` is "auto", a whole number of at least 1, or a list of names."""
    names = isinstance(cuts, list | tuple) and all(isinstance(name, str) for name in cuts)
    number = isinstance(cuts, int | np.integer) and not isinstance(cuts, bool) and cuts >= 1
    if not (names or number or (isinstance(cuts, str) and cuts == "auto")):
        raise ValueError(
            'cuts must be "auto", a number of cuts (at least 1), or a list of layer names; got '
            f"cuts={cuts!r}."
        )


def check_cut_names(cuts: Any, names: Sequence[str]) -> None:
    """Raises unless every layer that `cuts` names exists."""
    if isinstance(cuts, list | tuple):
        check_layer_names("cuts", cuts, names)


def check_layer_names(argument: str, named: Iterable[str], names: Sequence[str]) -> None:
    """Raises a ValueError unless every layer that an argument names exists."""
    for name in named:
        if name not in names:
            raise ValueError(
                f"{argument} names the layer {name!r}, which does not exist. The layers are: "
                f"{', '.join(names)}."
            )
