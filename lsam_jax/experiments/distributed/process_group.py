"""What the processes of a run tell one another; a process alone is a team of one."""

import contextlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsam_jax.experiments.errors import LOST, LostError

T = TypeVar("T")

KINDS: Mapping[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, OSError, FloatingPointError)
}
"""What an error of another process is raised as: the first of these that it is, or OSError."""
TRACES_OF_LOSS = re.compile("gloo|nccl|connection (closed|reset)|socket closed|coordination", re.I)


class Team:
    """All processes of `jax.distributed`; its methods must be called by all, in the same order.

    Attributes:
        index: The number of this process.
        count: How many there are.
    """

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self._said: deque[jax.Array] = deque()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.index == 0

    def each(self, act: Callable[[], T]) -> T:
        """What `act` returns here. Where it fails in one process, all of them raise.

        Raises:
            Exception: What `act` raised, in its process; in others, an error of that kind with
                the number of the process.
        """
        own: Exception | None = None
        try:
            result = act()
        except Exception as error:
            own = error
        failures = self._gather(None if own is None else _kind_and_message(own))
        if own is not None:
            raise own
        for process, failure in enumerate(failures):
            if failure is not None:
                kind, message = failure
                raise KINDS[kind](f"process {process}: {message}")
        return result

    def first(self, act: Callable[[], T]) -> T | None:
        """What `act` returns, in process 0; the others do nothing, return None and raise as it."""
        return self.each(act if self.is_first else lambda: None)

    def tell(self, value: Any) -> Any:
        """The value that process 0 gave, which JSON can hold."""
        return self._gather(value if self.is_first else None)[0]

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Compares what must not differ.

        Args:
            values: By name; JSON can hold them.

        Raises:
            ValueError: In every process, naming what differs.
        """
        first, *others = self._gather(dict(values))
        different = [
            f"{name}={first.get(name)} in process 0, {name}={other.get(name)} in process {process}"
            for name in sorted({name for one in (first, *others) for name in one})
            for process, other in enumerate(others, 1)
            if other.get(name) != first.get(name)
        ]
        if different:
            raise ValueError(
                f"the processes of a run must be alike: {'; '.join(different)}. Start all of them "
                "by the same command, but for --process"
            )

    def agree(self, number: int, ahead: int) -> int:
        """The largest number that a process gave `ahead` calls ago; all get the same.

        It is summed up on the devices behind what they are at, and nobody waits for it before it
        is `ahead` calls old.

        Args:
            number: Of this process, from 0; a process alone gets its own back at once.
            ahead: How many results may be outstanding.
        """
        if self.count == 1:
            return number
        self._said.append(self._largest(number))
        return int(np.asarray(self._said.popleft())) if len(self._said) > ahead else 0

    def meet(self) -> None:
        """Waits for all, and links their devices.

        Links that are there wait for a process as long as it lives, but to make them Gloo allows
        30 seconds; the first step, behind a compilation that takes each process its own time,
        would be too late for that.
        """
        if self.count > 1:
            self._largest(0).block_until_ready()

    def spread(self, arrays: Any) -> Any:
        """A pytree of NumPy arrays as process 0 has it; others give one of the same shapes."""
        if self.count == 1:
            return arrays
        return multihost_utils.broadcast_one_to_all(arrays)

    @contextlib.contextmanager
    def noticing_losses(self) -> Iterator[None]:
        """Around what waits for other processes.

        Raises:
            LostError: In place of what JAX raises when one of them is gone.
        """
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if self.count > 1 and TRACES_OF_LOSS.search(str(error)):
                raise LostError(LOST) from error
            raise

    def _largest(self, number: int) -> jax.Array:
        rows = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec("all"))
        own = np.full(jax.local_device_count(), number, np.int32)
        return _largest(jax.make_array_from_process_local_data(rows, own))

    def _gather(self, value: Any) -> list[Any]:
        """The values of all processes, in their order."""
        if self.count == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = multihost_utils.process_allgather(np.array(len(text), np.int32))
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: len(text)] = text
        rows = np.asarray(multihost_utils.process_allgather(padded))
        return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


@jax.jit
def _largest(numbers: jax.Array) -> jax.Array:
    return jnp.max(numbers)


def _kind_and_message(error: Exception) -> list[str]:
    kind = next((name for name, kind in KINDS.items() if isinstance(error, kind)), None)
    return [kind, str(error)] if kind else ["OSError", f"{type(error).__name__}: {error}"]
