"""Which radius to start with: what each would do to the loss, measured on a batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lsam_jax import arguments
from lsam_jax.arrays import promotion
from lsam_jax.arrays.apart import apart
from lsam_jax.devices import collectives
from lsam_jax.engine import auxiliary
from lsam_jax.engine.traced_loss import loss_and_aux, shapes_of
from lsam_jax.methods.sam import sam
from lsam_jax.text_table import rich_table, text_lines
from lsam_jax.transform import ascent_batch as samples
from lsam_jax.transform.method import layers_of, state_of
from lsam_jax.transform.radius_trial import RadiusTrial
from lsam_jax.transform.state import SamState
from lsam_jax.transform.transform import SamTransformation, check_method

RADII = tuple(float(f"{x:.2g}") for x in np.geomspace(1e-3, 10, 25))
HEADER, NUMBERS = ("radius", "loss", "sharpness", "rise", ""), range(4)
FITTING = (
    "How much SAM gains follows the rise, not the radius: about 0.1 nats fit clean labels, 0.3 "
    "where 40 % of them are drawn at random."
)


class Suggestion(NamedTuple):
    """What radii do to the loss of a batch, and the one to start with.

    Attributes:
      rho: that radius.
      why: the reason, in words.
      loss: at the weights themselves.
      selected: the names of the layers that were perturbed.
      radii: f64[N], ascending.
      losses: f64[N], at the perturbed weights.
      sharpness: f64[N], by how much these are larger, as in `SamState`.
      rises: f64[N], `<grad L(w + eps), eps>`, eps being the perturbation.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2
    >>> found = lsam.suggest_rho(loss_fn, w, radii=[0.5, 1.0, 2.0], target=8.0)
    >>> found.rho, found.rises.round(2).tolist()  # rho (5 + rho)
    (1.0, [2.75, 6.0, 14.0])
    """

    rho: float
    why: str
    loss: float
    selected: tuple[str, ...]
    radii: np.ndarray
    losses: np.ndarray
    sharpness: np.ndarray
    rises: np.ndarray

    def rows(self) -> list[tuple[str, ...]]:
        """The table, as text, without its header.

        >>> import jax.numpy as jnp
        >>> import lsam_jax as lsam
        >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2
        >>> lsam.suggest_rho(loss_fn, w, radii=[1.0], target=8.0).rows()
        [('1', '18', '5.5', '6', 'start here')]
        """
        columns = self.radii, self.losses, self.sharpness, self.rises
        return [
            (*(f"{x:.4g}" for x in row), "start here" * bool(row[0] == self.rho))
            for row in zip(*columns)
        ]

    def __str__(self) -> str:
        return "\n".join([*text_lines(HEADER, self.rows(), NUMBERS), self.why])

    def __rich__(self) -> Any:
        """The table for `rich.print`."""
        return rich_table(HEADER, self.rows(), NUMBERS, self.why)


@promotion.usual(theirs=("loss_fn",))
def suggest_rho(
    loss_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    tx: SamTransformation | None = None,
    sam_state: SamState | None = None,
    has_aux: bool = False,
    ascent_batch: float | None = None,
    batch_argnums: int | Sequence[int] = 1,
    radii: Sequence[float] = RADII,
    target: float = 0.1,
    **kwargs: Any,
) -> Suggestion:
    r"""Measures what each radius does to the loss of a batch, and advises one to start with.

    It is the largest radius at which, as at all smaller ones, `r = <grad L(w + eps), eps>` is at
    most `target`. Of all that was tried, r is what says whether a perturbation is large enough to
    matter and too large to train with, whatever the method, the layers, the part of the batch and
    the network. The rise in a row is the target with which `rise` would end at its radius, but for
    `functional_sam`, `gam` and `esam` below `gamma=1`, which have another r (docs/radius.md). It
    moves with the weights: ask at weights that have trained for an epoch, rather than at the first
    ones. Costs a gradient for each radius and one at the weights (two, with a part of the batch),
    and is compiled once for all.

    Args:
      loss_fn: `loss_fn(params, *args, **kwargs)`, as for `value_and_grad`; under loss scaling,
        scale the target too.
      params: the parameters.
      *args: further arguments of the loss.
      tx: the method, whose own radius is not looked at: a number takes the place of `per_layer` and
        `bounded` radii. None is SAM.
      sam_state: its state, whose norms say which layers are selected and which holds what the
        method climbs along, if that is not a gradient; None takes the norms of these gradients.
      has_aux: whether the loss returns `(loss, aux)`.
      ascent_batch: the share of the batch, or the number of samples, that gives the ascent
        gradient (the first ones); None for the whole.
      batch_argnums: the positions of the arguments that have the samples along their first axis.
      radii: those to try, ascending; by default 25 from 0.001 to 10.
      target: how large r may be, in units of the loss (nats, for cross-entropy): 0.1 fits clean
        labels, 0.3 where 40 % of the labels are drawn at random.
      **kwargs: further keyword arguments of the loss.

    Returns:
      A `Suggestion`: data, and a table when printed (by `print`, or by `rich.print`).

    Raises:
      TypeError, ValueError: for an argument out of its range, naming it, or if nothing moves.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2
    >>> found = lsam.suggest_rho(loss_fn, w, radii=[0.01, 0.02, 0.05])
    >>> print("\n".join(str(found).splitlines()[:4]))  # rho (5 + rho) is at most 0.1
    radius   loss  sharpness    rise
      0.01  12.55    0.05005  0.0501  start here
      0.02   12.6     0.1002  0.1004
      0.05  12.75     0.2512  0.2525
    """
    arguments.check_callable("loss_fn", loss_fn, "Pass the loss itself, not its value.")
    tx = sam() if tx is None else tx
    check_method(tx)
    arguments.check_number("target", target, above=0.0)
    grid = _checked(radii)
    method = tx.method._replace(axes=collectives.Axes())
    if method.ascent.fresh is not None:
        raise ValueError(
            f"fresh={method.ascent.fresh!r} takes its gradient at weights that depend on the "
            "radius, which suggest_rho does not follow: pass the method with stale() alone."
        )
    layers = layers_of(method, params)
    state = tx.init(params) if sam_state is None else state_of(method, layers, params, sam_state)
    part = None
    if ascent_batch is not None:
        sampled = samples.ascent_batch(ascent_batch, "first", batch_argnums, of_params=(0,))
        some = sampled.of((params, *args), state, method.cadence.turn)
        part = None if some is None else some[1:]
    batch = apart((args, part, kwargs), lambda n, x: hasattr(x, "dtype"))

    def losses(arrays: dict[int, Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        args, part, kwargs = batch.tree(arrays)
        whole = _loss_alone(lambda params: loss_fn(params, *args, **kwargs), has_aux)
        if part is None:
            return whole, whole
        return whole, _loss_alone(lambda params: loss_fn(params, *part, **kwargs), has_aux)

    trial = RadiusTrial(method, layers, losses, fresh=sam_state is None)
    found = trial.effects(params, state, batch.arrays, grid)
    names = tuple(n for n, chosen in zip(layers.names, found.selected) if chosen)
    if not found.moved:
        raise ValueError(
            f"No radius moves anything ({', '.join(names) or 'no layer is selected'}): what the "
            "method climbs along is 0. If that is not a gradient, pass sam_state of a run."
        )
    ends_there = method.descent.second is None  # what `rise` is told is what is measured here
    chosen, why = _advice(grid, found.rises, float(target), ends_there)
    sharpness = found.losses - found.loss
    return Suggestion(chosen, why, found.loss, names, grid, found.losses, sharpness, found.rises)


def _loss_alone(loss_fn: Callable[[Any], Any], has_aux: bool) -> Callable[[Any], Any]:
    """The loss without aux, checked."""
    of_params = auxiliary.closed(loss_fn)

    def loss(params: Any) -> Any:
        out = of_params(params)
        loss_and_aux(shapes_of(out), has_aux)
        return auxiliary.loss_of(out)

    return loss


def _advice(
    radii: np.ndarray, rises: np.ndarray, target: float, ends_there: bool
) -> tuple[float, str]:
    fits = np.logical_and.accumulate(np.isfinite(rises) & (rises <= target))
    last = int(fits.sum()) - 1
    if last < 0:
        why = f"Even the smallest radius has a rise above {target:g}: pass smaller radii."
    elif fits.all():
        why = f"Even the largest radius has a rise of at most {target:g}: pass larger radii."
    else:
        why = (
            f"{radii[last]:g} is the largest radius that, with all smaller ones, keeps the rise, "
            f"<grad L(w + eps), eps>, at most {target:g}; at {radii[last + 1]:g} it is "
            f"{rises[last + 1]:.3g}."
        )
        if ends_there:
            why += f" rho=lsam.rise({rises[last]:.2g}) would end there by itself."
    return float(radii[max(last, 0)]), f"{why} {FITTING}"


def _checked(radii: Any) -> np.ndarray:
    try:
        grid = np.asarray(radii, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"radii must be a list of numbers; got radii={radii!r}.") from None
    if grid.ndim != 1 or not grid.size or not (np.isfinite(grid) & (grid > 0)).all():
        raise ValueError(f"radii must be a list of numbers above 0; got radii={radii!r}.")
    if (np.diff(grid) <= 0).any():
        raise ValueError(f"radii must ascend; got radii={radii!r}.")
    return grid
