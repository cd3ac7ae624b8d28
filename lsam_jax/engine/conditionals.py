"""What a program leaves out at run time, by the platform that it is lowered for.

On a CPU a conditional costs nothing but what it runs. A TPU hands what a conditional returns out
through its main memory, and a gate keeps a weight gradient from being fused with what stands beside
it. A GPU leaves a conditional that holds a convolution to the host, which waits for the device
(unless XLA is told to capture convolutions in CUDA graphs). There the program runs what it could
leave out. Loops over layers leave out what they can on every platform.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

WITHOUT_SEGMENTS = ("tpu",)
GPUS = ("cuda", "rocm")


class Conditionals(NamedTuple):
    """How to leave out what is not needed.

    Attributes:
      skips: bool[], whether segments in which nothing differs between the passes are left out.
      gates: bool[], whether the weight gradients of layers that are not selected are; there are no
        conditionals around them if it is not traced, but False.
      nested: whether gates stand inside the conditional of their segment, which then leaves them
        out where there are no gates; a little slower where there are.
      alike: whether the walk back through everything stands in the conditionals of the one that
        leaves out, too, so that XLA for the CPU compiles the kernels of both once.
      surely: bool[], True for these; XLA for the CPU, which would remove them, does not know.
    """

    skips: Any
    gates: Any
    nested: bool
    alike: bool
    surely: Any

    def visits(self, differs: Any) -> Any:
        """Whether a segment is run, bool[], of whether anything in it differs."""
        return differs | ~self.skips

    def gated(
        self, wanted: Any, run: Callable[..., list[Any]], zeros: Any, operands: Sequence[Any]
    ) -> list[Any]:
        """What `run` gives if that is wanted, bool[], and otherwise `zeros`."""
        found = jax.lax.cond(wanted | ~self.gates, run, zeros, *operands)
        return [jnp.where(wanted | self.gates, x, jnp.zeros_like(x)) for x in found]


def conditionals_of(
    convolutions: bool, skip: bool | None = None, gate: bool | None = None
) -> Conditionals:
    """Those for a loss.

    Args:
      convolutions: whether the loss holds some.
      skip: whether segments are left out; None: where that pays.
      gate: the same of weight gradients.
    """
    # Before 0.10 no conditional was captured in CUDA graphs.
    captured = not convolutions and jax.__version_info__ >= (0, 10)
    without_gates = WITHOUT_SEGMENTS if captured else (*WITHOUT_SEGMENTS, *GPUS)
    return Conditionals(
        skips=_except_on(WITHOUT_SEGMENTS) if skip is None else jnp.asarray(skip),
        gates=_except_on(without_gates) if gate is None else gate and jnp.asarray(gate),
        nested=not captured,
        alike=not convolutions,
        surely=_true(hidden_on=[p for p in ("cpu",) if p not in WITHOUT_SEGMENTS]),
    )


def _true(hidden_on: Sequence[str]) -> Any:
    """bool[]: True; where a program is lowered for one of these, its compiler does not know."""

    def hidden() -> Any:
        return jax.lax.optimization_barrier(jnp.asarray(True))

    return jax.lax.platform_dependent(
        **dict.fromkeys(hidden_on, hidden), default=lambda: jnp.asarray(True)
    )


def _except_on(platforms: Sequence[str]) -> Any:
    """bool[]: False where a program is lowered for one of these, a constant to its compiler."""
    never = dict.fromkeys(platforms, lambda: jnp.asarray(False))
    return jax.lax.platform_dependent(**never, default=lambda: jnp.asarray(True))
