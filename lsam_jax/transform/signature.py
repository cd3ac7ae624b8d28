"""How the function that `value_and_grad` makes is called: the arguments of the loss, and the state.

The state stands behind the (last of the) parameters. Like the parameters it may be passed by name.
"""

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lsam_jax.losses import PerSample, SplitLoss

STATE = "sam_state"


class Signature(NamedTuple):
    """Which arguments of a loss are its parameters.

    Attributes:
      argnums: their positions; negative ones count from the end.
      single: whether the parameters are one argument, not a tuple of several.
      names: of the arguments that the loss takes by position, as far as they are known.
      own: all names that the loss gives to its arguments.
    """

    argnums: tuple[int, ...]
    single: bool
    names: tuple[str, ...]
    own: frozenset[str]

    def take(self, args: Sequence[Any], kwargs: dict[str, Any]) -> "Call":
        """Sorts what a caller has passed.

        Raises:
          TypeError: if the state or parameters are missing.
        """
        args, kwargs = list(args), dict(kwargs)
        by_name = STATE in kwargs and STATE not in self.own
        count = len(args) if by_name else len(args) - 1
        argnums = tuple(n if n >= 0 else n + count for n in self.argnums)
        last = max(argnums)
        if by_name:
            state = kwargs.pop(STATE)
        elif 0 <= last < count:
            state = args.pop(last + 1)
        else:
            raise TypeError(
                f"sam_state is missing: it stands behind the parameters, {self.example(last)}, or "
                "is passed as sam_state=."
            )
        for n in range(len(args), last + 1):
            name = self.names[n] if n < len(self.names) else "params"
            alias = "params" if argnums == (0,) and "params" not in self.own else name
            given = next((key for key in (name, alias) if key in kwargs), None)
            if given is None:
                raise TypeError(
                    f"The argument {name!r} of the loss is missing: call {self.example(last)}."
                )
            args.append(kwargs.pop(given))
        return Call(args, kwargs, argnums, self.single, state)

    def example(self, last: int) -> str:
        """A call, in words."""
        names = [*self.names[: last + 1], *["..."] * (last + 1 - len(self.names))]
        return f"step({', '.join([*names, STATE])}, ...)"


class Call(NamedTuple):
    """The arguments of a call, without the state.

    Attributes:
      args: of the loss, by position.
      kwargs: of the loss, by name.
      argnums: which of `args` are parameters.
      single: whether the parameters are one argument.
      state: the state.
    """

    args: list[Any]
    kwargs: dict[str, Any]
    argnums: tuple[int, ...]
    single: bool
    state: Any

    @property
    def params(self) -> Any:
        """What the loss is differentiated with respect to."""
        own = tuple(self.args[n] for n in self.argnums)
        return own[0] if self.single else own

    def at(self, params: Any) -> list[Any]:
        """The arguments by position, with these parameters."""
        args = list(self.args)
        for n, own in zip(self.argnums, (params,) if self.single else params):
            args[n] = own
        return args


def signature_of(loss_fn: Callable[..., Any], argnums: int | Sequence[int]) -> Signature:
    """Which arguments of `loss_fn` are its parameters.

    Raises:
      TypeError: unless `argnums` is a position or several, and the loss can have them there.
      ValueError: if one is named twice.
    """
    try:
        single = not isinstance(argnums, list | tuple)
        places = tuple(map(operator.index, (argnums,) if single else argnums))  # type: ignore[arg-type]
        if not places:
            raise TypeError
    except TypeError:
        raise TypeError(
            f"argnums must be a position or positions of arguments of the loss; got {argnums=!r}."
        ) from None
    if len(set(places)) < len(places):
        raise ValueError(f"argnums={argnums!r} must name each position once.")
    if isinstance(loss_fn, SplitLoss | PerSample) and (not single or places != (0,)):
        raise TypeError(
            f"argnums={argnums!r}: the parts of a loss made by split_loss or per_sample take the "
            "parameters first. Leave argnums out, and make the parts functions of "
            "(params, *args), params being a tuple if there are several."
        )
    parameters = _parameters(loss_fn)
    positional = [p.name for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    return Signature(places, single, tuple(positional), frozenset(p.name for p in parameters))


def check_options(*, holomorphic: bool, allow_int: bool, reduce_axes: Sequence[str]) -> None:
    """Raises a TypeError for what `jax.value_and_grad` takes and `value_and_grad` does not."""
    if holomorphic:
        raise TypeError(
            "holomorphic=True is not taken: the loss must be real, and so must the parameters. "
            "Make real and imaginary parts parameters of their own."
        )
    if allow_int:
        raise TypeError(
            "allow_int=True is not taken: what cannot be perturbed is no parameter. Pass whole "
            "numbers to the loss as another argument, or close over them."
        )
    if reduce_axes:
        raise TypeError(
            f"reduce_axes={reduce_axes!r} is not taken: pass axis_name= to the method, which then "
            "averages over these axes."
        )


def with_state(
    fun: Callable[..., Any], loss_fn: Callable[..., Any], signature: Signature
) -> Callable[..., Any]:
    """Gives `fun` the signature of the loss with the state, where that can be said.

    `jax.jit` reads it, for `donate_argnames`, `static_argnames` and the names in its messages.
    """
    parameters = _parameters(loss_fn)
    place = max(signature.argnums) + 1
    sayable = min(signature.argnums) >= 0 and place <= len(signature.names)
    if sayable and STATE not in signature.own:
        # A parameter behind one with a default needs one too, so before the state there are none.
        before = [p.replace(default=p.empty) for p in parameters[:place]]
        by_position = any(p.kind == p.POSITIONAL_ONLY for p in parameters[place:])
        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY
        state = inspect.Parameter(STATE, kinds[by_position])
        named = inspect.Signature([*before, state, *parameters[place:]])
        fun.__signature__ = named  # type: ignore[attr-defined]
    return fun


def _parameters(loss_fn: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(loss_fn).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return []
