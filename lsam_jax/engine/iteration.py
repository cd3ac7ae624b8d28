"""One iteration of a scan over layers: traced once forward and once backward."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from lsam_jax.engine import jaxprs
from lsam_jax.engine.jaxprs import Scan, Transformation

Arrays = Sequence[Any]


class Iteration:
    """What one iteration makes of what it is given, and the way back.

    What it is given are the operands of the scan: the fixed ones, what is carried, and a row of
    each that the scan runs over.

    Args:
      scan: what it belongs to.
      moving: the variables of the program that are differentiated.
      reaching: those on which its differentiated results depend.
      operands: those of one iteration, to be traced with.
      inside: a transformation of what runs inside a loop.

    Attributes:
      moving: the numbers of the operands that are differentiated.
      results: the numbers of the results that are.
    """

    def __init__(
        self,
        scan: Scan,
        moving: frozenset[Any],
        reaching: frozenset[Any],
        operands: Arrays,
        inside: Transformation,
    ):
        eqn, carried = scan.eqn, scan.carried
        self._carried, self._count, self._inside = carried, len(eqn.outvars), inside
        inexact = [jaxprs.is_inexact(v) for v in eqn.outvars[:carried]]
        self.moving = [
            n
            for n, v in enumerate(eqn.invars)
            if (inexact[n - scan.fixed] if n in scan.carry else _is_in(v, moving))
        ]
        wanted = moving & reaching
        self.results = [
            n for n, v in enumerate(eqn.outvars) if (inexact[n] if n < carried else v in wanted)
        ]
        consts = getattr(eqn.params["jaxpr"], "consts", [])

        def forward(*operands: Any) -> list[Any]:
            def of_moving(some: Arrays) -> tuple[list[Any], list[Any]]:
                given = list(operands)
                for n, x in zip(self.moving, some):
                    given[n] = x
                out = jaxprs.evaluate(scan.body, consts, given, jaxprs.open_nested)
                return [out[n] for n in self.results], out

            some = [operands[n] for n in self.moving]
            _, pull_back, out = jax.vjp(of_moving, some, has_aux=True)
            residuals, self._pull_back = jax.tree.flatten(pull_back)
            return [*out, *residuals]

        self._forward: jex.ClosedJaxpr = jax.make_jaxpr(inside(forward))(*operands)
        self._backward: jex.ClosedJaxpr | None = None
        jaxpr = self._forward.jaxpr
        self._inputs = [*jaxpr.constvars, *jaxpr.invars]
        kept = (v for v in jaxpr.outvars[carried:] if jaxprs.is_variable(v))
        self._computed = list(dict.fromkeys(v for v in kept if v not in set(self._inputs)))

    def run(self, given: Arrays) -> tuple[list[Any], list[Any]]:
        """What it hands on, and what it computes for its other results and its way back."""
        jaxpr = self._forward.jaxpr
        outvars = [*jaxpr.outvars[: self._carried], *self._computed]
        compute = jaxprs.as_function(jaxpr.eqns, self._inputs, outvars, jaxpr)
        out = compute(*self._forward.consts, *given)
        return out[: self._carried], out[self._carried :]

    def collected(self, given: Arrays, computed: Arrays) -> list[Any]:
        """The results that are not handed on."""
        return self._values(
            self._forward.jaxpr.outvars[self._carried : self._count], given, computed
        )

    def arguments(
        self, given: Arrays, computed: Arrays, of_carry: Arrays, of_collected: Arrays
    ) -> list[Any]:
        """Those of the way back, which also takes the errors of `results`."""
        residuals = self._values(self._forward.jaxpr.outvars[self._count :], given, computed)
        return [*residuals, *of_carry, *of_collected]

    def way_back(self, arguments: Arrays) -> jex.ClosedJaxpr:
        """From its arguments to the errors of what is `moving`."""
        if self._backward is None:
            count = len(arguments) - len(self.results)

            def backward(*args: Any) -> list[Any]:
                pull_back = jax.tree.unflatten(self._pull_back, args[:count])
                return pull_back(list(args[count:]))[0]

            self._backward = jax.make_jaxpr(self._inside(backward))(*arguments)
        return self._backward

    def _values(self, atoms: Arrays, given: Arrays, computed: Arrays) -> list[Any]:
        env = dict(zip(self._inputs, [*self._forward.consts, *given]))
        env.update(zip(self._computed, computed))
        return [env[v] if jaxprs.is_variable(v) else jnp.asarray(v.val) for v in atoms]


def _is_in(v: Any, variables: frozenset[Any]) -> bool:
    return jaxprs.is_variable(v) and v in variables
