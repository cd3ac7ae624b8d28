"""What a step would cost, layer by layer, before anything is run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lsam_jax.arguments import Cuts, check_cut_names, check_cuts, check_layer_names, check_plain
from lsam_jax.arrays.apart import apart
from lsam_jax.components.selection import as_selector
from lsam_jax.components.selector import Selector, candidates_of, fewest, wanted
from lsam_jax.engine import auxiliary
from lsam_jax.engine.costs import Profile
from lsam_jax.engine.cuts import network_of
from lsam_jax.engine.scans import over_inputs
from lsam_jax.engine.traced_loss import TracedLoss, trace
from lsam_jax.layers.leaves import Layers
from lsam_jax.layers.partition import LayerSpec, partition
from lsam_jax.text_table import rich_table, text_lines
from lsam_jax.transform.state import SamState, check_kind

HEADER, NUMBERS = ("layer", "shape", "parameters", "cost of a step", "cut"), (2, 3)


class LayerCost(NamedTuple):
    """A layer of a network.

    Attributes:
      name: its name, as `layer_names` gives it.
      shape: the shape of its array; a tuple of shapes where it has several.
      parameters: how many numbers it holds.
      cost: of a step in which it is the first perturbed layer (and the only one), counted in
        floating-point operations and relative to a plain gradient. 1 is the price of SGD.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"w1": jnp.ones((8, 8)), "w2": jnp.ones((8, 8)), "w3": jnp.ones((8, 1))}
    >>> loss_fn = lambda p, x: jnp.mean(x @ p["w1"] @ p["w2"] @ p["w3"])
    >>> head = lsam.inspect(loss_fn, params, jnp.ones((4, 8))).layers[-1]
    >>> head.name, head.shape, head.parameters, round(head.cost, 2)
    ('w3', (8, 1), 8, 1.05)
    """

    name: str
    shape: tuple[Any, ...]
    parameters: int
    cost: float


class Inspection(NamedTuple):
    """The layers in network order, from input to output, and where the engine would cut.

    Attributes:
      layers: one `LayerCost` for each layer.
      cuts: the names of the layers in front of which the network is cut.
      profile: the counts behind the costs, by position in the network.
      scanned: the paths of arrays that a `scan` runs over and that are not said to be `stacked`.
      last: rho and rise of the last step that perturbed, see `SamState`; None if no state was
        given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"w1": jnp.ones((8, 8)), "w2": jnp.ones((8, 8)), "w3": jnp.ones((8, 1))}
    >>> loss_fn = lambda p, x: jnp.mean(x @ p["w1"] @ p["w2"] @ p["w3"])
    >>> network = lsam.inspect(loss_fn, params, jnp.ones((4, 8)))
    >>> [layer.name for layer in network.layers], network.cuts
    (['w1', 'w2', 'w3'], ('w1', 'w2', 'w3'))
    """

    layers: tuple[LayerCost, ...]
    cuts: tuple[str, ...]
    profile: Profile
    scanned: tuple[str, ...] = ()
    last: tuple[float, float] | None = None

    def cost(self, selected: Sequence[str]) -> float:
        """Counted cost of a step, relative to a plain gradient.

        Args:
          selected: the names of the layers that it perturbs.

        Returns:
          The cost at the last of `cuts` in front of all of them; 1.0 if there are none.

        Raises:
          ValueError: if a name is not a layer.

        >>> import jax.numpy as jnp
        >>> import lsam_jax as lsam
        >>> params = {"w1": jnp.ones((8, 8)), "w2": jnp.ones((8, 8)), "w3": jnp.ones((8, 1))}
        >>> loss_fn = lambda p, x: jnp.mean(x @ p["w1"] @ p["w2"] @ p["w3"])
        >>> round(lsam.inspect(loss_fn, params, jnp.ones((4, 8))).cost(["w1", "w3"]), 3)
        1.801
        """
        names = [layer.name for layer in self.layers]
        check_layer_names("selected", selected, names)
        chosen = np.isin(names, list(selected))
        first = int(np.argmax(chosen))
        cut = max((p for p in map(names.index, self.cuts) if p <= first), default=first)
        return 1 + self.profile.of(chosen, cut)

    def rows(self) -> list[tuple[str, ...]]:
        """The table, as text, without its header.

        >>> import jax.numpy as jnp
        >>> import lsam_jax as lsam
        >>> lsam.inspect(lambda w: jnp.sum(w**2), jnp.ones((2, 3)), layers="array").rows()
        [('', '2x3', '6', '2.000', 'cut')]
        """
        return [
            (
                x.name,
                _shape(x.shape),
                f"{x.parameters:,}",
                f"{x.cost:.3f}",
                "cut" * (x.name in self.cuts),
            )
            for x in self.layers
        ]

    def __str__(self) -> str:
        return "\n".join([*text_lines(HEADER, self.rows(), NUMBERS), *self._hint()])

    def _hint(self) -> list[str]:
        lines = []
        if self.last is not None:
            rho, rise = self.last
            effect = f"the loss rises by {rise:.3g} along the perturbation"
            lines.append(f"last step: radius {rho:.3g}, {effect}")
        if self.scanned:
            more = len(self.scanned) - 3
            some = ", ".join(self.scanned[:3]) + (f" and {more} more" if more > 0 else "")
            lines.append(
                f"A scan runs over {some}. If their first axis is one of layers, "
                "layers=lsam.stacked(pattern) makes each slice a layer."
            )
        return lines

    def __rich__(self) -> Any:
        """The table for `rich.print`."""
        caption = "cost of a step: if this is the first perturbed layer; SGD is 1"
        return rich_table(HEADER, self.rows(), NUMBERS, "\n".join([caption, *self._hint()]))


def inspect(
    loss_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    layers: LayerSpec = "kernel",
    cuts: Cuts = "auto",
    k: int | None = 1,
    selection: Any = "high",
    has_aux: bool | None = None,
    sam_state: SamState | None = None,
    **kwargs: Any,
) -> Inspection:
    """Shows what perturbing each layer would cost; traces the loss and computes nothing.

    Args:
      loss_fn: `loss_fn(params, *args, **kwargs)`, a real scalar or `(loss, aux)`.
      params: the parameters. Here and below, a `jax.ShapeDtypeStruct` serves for an array.
      *args: further arguments of the loss.
      layers: how the parameters are cut into layers; see `layer_names`.
      cuts: as for `layerwise_sam`.
      k: how many layers a step will perturb; the first of them is no later than the k-th last,
        so "auto" makes no cut behind it. None where the selection needs no number.
      selection: as for `layerwise_sam`: "auto" makes no cut in front of the first layer that it can
        choose, and one alone for a `budget`.
      has_aux: whether the loss returns `(loss, aux)`; None finds out.
      sam_state: the state of a run, whose last radius and rise are shown too.
      **kwargs: further keyword arguments of the loss.

    Returns:
      An `Inspection`: data (`.layers`, `.cuts`), and a table when printed (by `print`, or by
      `rich.print`).

    Raises:
      TypeError, ValueError: as for `value_and_grad`.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> params = {"w1": jnp.ones((8, 8)), "w2": jnp.ones((8, 8)), "w3": jnp.ones((8, 1))}
    >>> loss_fn = lambda p, x: jnp.mean(x @ p["w1"] @ p["w2"] @ p["w3"])
    >>> print(lsam.inspect(loss_fn, params, jnp.ones((4, 8))))
    layer  shape  parameters  cost of a step  cut
    w1     8x8            64           1.776  cut
    w2     8x8            64           1.423  cut
    w3     8x1             8           1.050  cut
    """
    check_cuts(cuts)
    if sam_state is not None:
        check_kind(sam_state, "sam_state")
    parts = partition(params, layers)
    check_cut_names(cuts, parts.names)
    selector = as_selector(selection)
    selector.check(parts.names)
    _check_k(k, selector, len(parts.names))
    count = parts.treedef.num_leaves
    given = apart((params, args, kwargs), lambda n, x: hasattr(x, "dtype") or n < count)
    shapes = {
        n: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.result_type(x))
        for n, x in given.arrays.items()
    }

    def value(arrays: dict[int, Any]) -> Any:
        params, args, kwargs = given.tree(arrays)
        return loss_fn(params, *args, **kwargs)

    if has_aux is None:
        out = jax.eval_shape(auxiliary.closed(value), shapes)
        has_aux = isinstance(out, auxiliary.Pair) and len(out) == 2

    found: list[Inspection] = []

    def look(arrays: dict[int, Any]) -> None:
        params, args, kwargs = given.tree(arrays)
        leaves = parts.treedef.flatten_up_to(params)
        tree = parts.treedef.unflatten
        program = trace(lambda x: loss_fn(tree(x), *args, **kwargs), leaves, has_aux)
        found.append(_inspected(program, leaves, parts, selector, k, cuts))

    # Under eval_shape, so that shapes are enough and nothing is computed.
    jax.eval_shape(look, shapes)
    if sam_state is None:
        return found[0]
    return found[0]._replace(last=(float(sam_state.rho), float(sam_state.rise)))


def _check_k(k: Any, selector: Selector, layers: int) -> None:
    if k is None:
        if selector.score is not None:
            raise ValueError(
                "k is None, but this selection needs a number of layers; pass k=4, say."
            )
        return
    check_plain("k", k)
    if not 1 <= k <= layers:
        raise ValueError(f"k must be from 1 to the number of layers, {layers}; got k={k}.")


def _inspected(
    program: TracedLoss,
    arrays: Sequence[Any],
    parts: Layers,
    selector: Selector,
    k: int | None,
    cuts: Cuts,
) -> Inspection:
    """The layers of a network, and where it is cut."""
    where = wanted(cuts, selector)
    network, place, profile = network_of(program, arrays, parts, where, fewest(selector, k))
    order, candidates = np.argsort(network.position), candidates_of(selector, network)
    places = place(candidates) if candidates.any() else []
    each = parts.apart()
    shapes = [np.shape(x)[has_row:] for x, has_row in zip(each.leaves_of(arrays), each.stacked)]
    shapes_of = [[shape for shape, j in zip(shapes, each.of_leaf) if j == i] for i in order]
    sizes, cost = network.sizes, 1 + network.first()
    rows = [
        LayerCost(parts.names[i], s[0] if len(s) == 1 else tuple(s), int(sizes[i]), float(cost[i]))
        for i, s in zip(order, shapes_of)
    ]
    where_names = tuple(parts.names[order[p]] for p in places)
    found = [n for n in over_inputs(program.closed.jaxpr) if not parts.pieces[n]]
    scanned = tuple(parts.paths[parts.array_of.index(n)][0] for n in found)
    return Inspection(tuple(rows), where_names, profile(), scanned)


def _shape(shape: tuple[Any, ...]) -> str:
    if shape and isinstance(shape[0], tuple):
        return ", ".join(map(_shape, shape))
    return "x".join(map(str, shape)) or "scalar"
