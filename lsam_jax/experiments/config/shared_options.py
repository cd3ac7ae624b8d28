"""The options that every method has: which samples it climbs, when, and how its radius is set."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

import lsam_jax as lsam
from lsam_jax.arguments import check_number

BATCH = 3
"""Where an `objective.TrainingLoss` takes the batch."""

LONG = 1_000_000
"""Steps of a run whose length does not matter, since its options are only looked at."""


class SharedOptions(NamedTuple):
    """Options beside a method's own; None leaves each as the method has it.

    Attributes:
        ascent_batch: The share of the batch on whose gradient the method climbs.
        m: How many samples are perturbed together, by their own gradient (m-sharpness); the parts
            have their own batch statistics, whose mean is kept.
        rise: What the radius follows, see `lsam.rise`: a target in units of the loss,
        rise_share: or a share of what has been learnt,
        rise_cap: and at most this share of the first loss.
        budget: The share of a gradient that a perturbation may cost, see `lsam.budget`; of a method
            that selects layers.
        perturb_every: Perturb in every so many steps, and in the others not.
        perturb_from: Perturb from this share of the run on, and before not.
    """

    ascent_batch: float | None = None
    m: int | None = None
    rise: Any = None
    rise_share: Any = None
    rise_cap: float | None = None
    budget: float | None = None
    perturb_every: int | None = None
    perturb_from: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SharedOptions":
        """Those among all options of a method."""
        return cls(**{name: x for name, x in options.items() if name in cls._fields})

    @property
    def sets_radius(self) -> bool:
        """Whether the radius sets itself."""
        return any(x is not None for x in (self.rise, self.rise_share, self.rise_cap))

    def complete(
        self, make: Any, own: Mapping[str, Any], steps: int = LONG
    ) -> lsam.SamTransformation:
        """The method, given these.

        Raises:
            ValueError, TypeError: When options exclude each other, or a value makes no sense.
        """
        if self.sets_radius:
            if "rho" in own:
                raise ValueError(
                    f"rho={own['rho']} is a radius, and rise, rise_share, rise_cap make it set "
                    "itself: give one or the other"
                )
            with self._named("rise", "rise_share", "rise_cap"):
                radius = lsam.rise(self.rise, share=self.rise_share, cap=self.rise_cap)
            own = {**own, "rho": radius}
        if self.budget is not None:
            own = {**own, **self._within_budget(make, own)}
        tx: lsam.SamTransformation = make(**own)
        if self.perturb_every is not None and self.perturb_from is not None:
            raise ValueError(
                f"perturb_every={self.perturb_every} and perturb_from={self.perturb_from} both say "
                "when to perturb: give one or the other"
            )
        if self.perturb_from is not None:
            check_number("perturb_from", self.perturb_from, low=0, below=1)
        with self._named("perturb_every", "perturb_from"):
            if self.perturb_every is not None:
                return lsam.with_parts(tx, when=lsam.every(self.perturb_every))
            if self.perturb_from is not None:
                return lsam.with_parts(tx, when=lsam.between(self.perturb_from, steps=steps))
        return tx

    @contextlib.contextmanager
    def _named(self, *names: str) -> Iterator[None]:
        """Begins what the library says of its own arguments with options as they were given."""
        try:
            yield
        except (ValueError, TypeError) as error:
            given = {name: getattr(self, name) for name in names}
            said = ", ".join(f"{name}={x!r}" for name, x in given.items() if x is not None)
            raise type(error)(f"{said}: {error}") from error

    def _within_budget(self, make: Any, own: Mapping[str, Any]) -> dict[str, Any]:
        assert self.budget is not None
        with self._named("budget"):
            within = lsam.budget(self.budget)
        known = inspect.signature(make).parameters
        if "budget" in known:
            return {"budget": self.budget}
        if "selection" not in known:
            raise ValueError(f"budget={self.budget} is for methods that select layers")
        if "selection" in own:
            raise ValueError(
                f"budget={self.budget} and selection={own['selection']!r} both say which layers to "
                "perturb: give one or the other"
            )
        return {"selection": within}

    def value_and_grad(self, loss_fn: Any, tx: lsam.SamTransformation) -> Any:
        """A method's gradient of a loss that takes a batch in place `BATCH`."""
        part = self.ascent_batch
        if part is not None and not isinstance(part, float):
            raise ValueError(f"ascent_batch={part!r} must be a share of the batch, such as 0.125")
        found = lsam.value_and_grad(
            loss_fn, tx, has_aux=True, m=self.m, ascent_batch=part, batch_argnums=BATCH
        )
        return found if self.m is None else _with_mean_aux(found)


def _with_mean_aux(value_and_grad: Any) -> Any:
    """With what the parts of a batch give beside their losses averaged over the parts."""

    def averaged(*arguments: Any) -> Any:
        (loss, aux), grads, state = value_and_grad(*arguments)
        return (loss, jax.tree.map(lambda parts: parts.mean(axis=0), aux)), grads, state

    return averaged
