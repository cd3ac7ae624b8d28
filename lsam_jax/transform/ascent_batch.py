"""The part of a batch on which the ascent gradient is computed.

A perturbation needs a direction uphill, and a part of the batch gives one almost as good for a part
of the price (Bahri et al. 2021, https://arxiv.org/abs/2110.08529). The part is taken evenly: of
eighths, every eighth sample. So it is the same samples on one device and on many, each of which
takes them from its own rows, and a batch that is sorted by class is no worse than a shuffled one.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arguments import check_argnums
from lsam_jax.arrays import symbolic
from lsam_jax.arrays.draws import is_key, key_for
from lsam_jax.devices import shardings
from lsam_jax.transform.state import check_kind


@dataclasses.dataclass(frozen=True)
class AscentBatch:
    """Which samples; made by `ascent_batch`.

    Attributes:
      size: a share in (0, 1), or a number of samples.
      samples: "even", "first", "rotating" or a random key.
      argnums: the positions of the arguments that hold samples.
    """

    size: float | int
    samples: Any
    argnums: tuple[int, ...]

    def of(
        self, args: Sequence[Any], state: Any, turn: Callable[[jax.Array], jax.Array]
    ) -> list[Any] | None:
        """The arguments with the part of the batch; None if it is the whole.

        Args:
          args: of the loss, by position.
          state: the method's.
          turn: of its cadence.

        Raises:
          ValueError: unless these samples can be taken of the batch.
        """
        if max(self.argnums) >= len(args):
            raise ValueError(
                f"batch_argnums={max(self.argnums)} is beyond the {len(args)} arguments of the "
                "loss; pass the batch by position."
            )
        rows = self._rows([args[n] for n in self.argnums])
        size = self._of(rows)
        if size == rows:
            return None
        groups = 1 if self.samples == "first" else math.gcd(rows, size)
        each, taken = rows // groups, size // groups
        places = self._places(groups, each, taken, _count(state), turn)
        part = list(args)
        for n in self.argnums:
            part[n] = jax.tree.map(lambda x: _take(x, places, each), args[n])
        return part

    def _rows(self, batch: Any) -> int:
        found: dict[int, Any] = {}
        for path, x in jax.tree_util.tree_leaves_with_path(batch):
            where = f"argument {self.argnums[path[0].idx]}{jax.tree_util.keystr(path[1:])}"
            shape = np.shape(x)
            if not shape or not symbolic.is_known(shape[0]):
                raise ValueError(
                    f"{where} of the loss has shape {shape}, so no number of samples along its "
                    "first axis; leave it out of batch_argnums."
                )
            found.setdefault(shape[0], where)
        if len(found) != 1:
            lengths = ", ".join(f"{where} has {rows}" for rows, where in found.items())
            raise ValueError(
                f"batch_argnums={self.argnums} must hold arrays with as many samples each along "
                f"their first axis: {lengths or 'there are none'}."
            )
        return next(iter(found))

    def _of(self, rows: int) -> int:
        if isinstance(self.size, int):
            if self.size > rows:
                raise ValueError(
                    f"ascent_batch={self.size} is more than the {rows} samples of the batch; pass "
                    f"at most {rows}, or a share such as 1/8."
                )
            return self.size
        size = round(self.size * rows)
        if not size or abs(size - self.size * rows) > 1e-6 * rows:
            raise ValueError(
                f"ascent_batch={self.size:g} of {rows} samples is {self.size * rows:g}, not a "
                "whole number of at least 1; choose another share or batch size, or pass a number."
            )
        return size

    def _places(self, groups: int, each: int, taken: int, count: Any, turn: Any) -> Any:
        """The samples taken of each group, i32[taken] or i32[groups, taken]."""
        places = np.arange(taken, dtype=np.int32)
        if self.samples == "rotating":
            return (turn(jnp.asarray(count)) * taken + places) % each
        if isinstance(self.samples, str):
            return places
        luck = jax.random.uniform(key_for("samples", self.samples, count), (groups, each))
        return jnp.argsort(luck, axis=1)[:, :taken]


def ascent_batch(size: Any, samples: Any, argnums: Any, of_params: Sequence[int]) -> AscentBatch:
    """What `value_and_grad` was told.

    Raises:
      TypeError, ValueError: unless `size` is a share in (0, 1] or a number of samples, `samples` is
        "even", "first", "rotating" or a random key, and `argnums` are positions of arguments.
    """
    if isinstance(size, bool) or not isinstance(size, int | float | np.number):
        raise TypeError(
            "ascent_batch decides what is compiled: it must be a share of the batch such as 1/8, "
            f"or a whole number of samples; got ascent_batch={size!r}."
        )
    whole = isinstance(size, int | np.integer)
    if not (size >= 1 if whole else 0 < size <= 1):
        raise ValueError(
            "ascent_batch must be a share above 0 and at most 1.0, or a whole number of samples, "
            f"at least 1; got ascent_batch={size!r}."
        )
    named = isinstance(samples, str) and samples in ("even", "first", "rotating")
    if not (is_key(samples) or named):
        raise ValueError(
            'ascent_samples must be "even", "first", "rotating" or a random key, '
            f"jax.random.key(0); got ascent_samples={samples!r}."
        )
    places = check_argnums("batch_argnums", argnums, of_params)
    return AscentBatch(int(size) if whole else float(size), samples, places)


def _count(state: Any) -> Any:
    if isinstance(state, Mapping):  # as `check_state` takes it, or says why it cannot
        return state.get("count", 0)
    check_kind(state)
    return state.count


def _take(x: Any, places: Any, each: int) -> Any:
    rows = x.shape[0]
    groups, taken = rows // each, np.shape(places)[-1]
    if shardings.explicit(x) is not None:
        at = jnp.arange(groups)[:, None] * each + places
        return shardings.take_rows(x, at.reshape(groups * taken))
    x = jnp.asarray(x) if isinstance(x, np.ndarray) else x
    grouped = x.reshape(groups, each, *x.shape[1:])
    if np.ndim(places) == 2:
        found = jax.vmap(lambda group, at: group[at])(grouped, places)
    else:
        found = grouped[:, :taken] if isinstance(places, np.ndarray) else grouped[:, places]
    return found.reshape(groups * taken, *x.shape[1:])
