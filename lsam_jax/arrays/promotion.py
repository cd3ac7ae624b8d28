"""How numbers of different types and ranks meet: our own rules inside, the user's outside.

A user may forbid promotion (`jax.numpy_dtype_promotion("strict")`, and "raise" of
`jax.numpy_rank_promotion`) to find what is not meant in a model. Here it is meant: a radius in
float32 times a gradient in bfloat16 is formed in float32 and rounded once. So a step is computed
by JAX's usual rules, and what the user wrote by the rules that the user has set.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

import jax

Function = TypeVar("Function", bound=Callable[..., Any])
Rules = tuple[str, str]
OURS = ("standard", "allow")


@dataclasses.dataclass(frozen=True, eq=False)
class InParts:
    """A dataclass that holds functions of the user's, and keeps its kind under any rules."""


@overload
def usual(function: Function) -> Function: ...
@overload
def usual(*, theirs: tuple[str, ...]) -> Callable[[Function], Function]: ...
def usual(function: Any = None, *, theirs: tuple[str, ...] = ()) -> Any:
    """Decorator: the function computes by JAX's usual rules of promotion.

    Args:
      function: the function.
      theirs: the names of those of its arguments that are functions that the user wrote.
    """
    if function is None:
        return functools.partial(usual, theirs=theirs)
    places = {name: n for n, name in enumerate(inspect.signature(function).parameters)}

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        rules = _rules()
        if rules == OURS:
            return function(*args, **kwargs)
        kept = {places[name] for name in theirs}
        args = tuple(_under(rules, x) if n in kept else x for n, x in enumerate(args))
        kwargs = {name: _under(rules, x) if name in theirs else x for name, x in kwargs.items()}
        return _under(OURS, function)(*args, **kwargs)

    return wrapped


def _rules() -> Rules:
    config: Any = jax.config  # whose attributes no type checker sees
    return config.jax_numpy_dtype_promotion, config.jax_numpy_rank_promotion


def _under(rules: Rules, function: Any) -> Any:
    """The function under these rules; of a loss in parts, the functions that it holds."""
    if isinstance(function, InParts):
        values = {f.name: getattr(function, f.name) for f in dataclasses.fields(function)}
        parts = {name: _under(rules, x) for name, x in values.items() if callable(x)}
        return dataclasses.replace(function, **parts)
    if not callable(function):
        return function

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion(rules[0]), jax.numpy_rank_promotion(rules[1]):
            return function(*args, **kwargs)

    return wrapped
