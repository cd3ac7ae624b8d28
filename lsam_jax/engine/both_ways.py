"""A part of a program, traced once forward and once backward."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from lsam_jax.engine import jaxprs
from lsam_jax.engine.kept import fewest

Arrays = Sequence[Any]


class BothWays:
    """A function of arrays that is run forward, and differentiated by what that run has left.

    What it is given stands beside what it has computed for its results and its way back, so that
    whoever keeps the one need not keep the other.

    Args:
      run: the function, from arrays to a list of arrays.
      moving: the numbers of the arguments that are differentiated.
      results: the numbers of the results that are.
      handed_on: how many results, the first, are wanted where it is run and not kept.
      args: arguments, to be traced with.
    """

    def __init__(
        self,
        run: Callable[..., list[Any]],
        moving: Sequence[int],
        results: Sequence[int],
        handed_on: int,
        args: Arrays,
    ):
        self.moving, self.results = list(moving), list(results)
        self._handed_on = handed_on

        def forward(*args: Any) -> list[Any]:
            def of_moving(some: Arrays) -> tuple[list[Any], list[Any]]:
                given = list(args)
                for n, x in zip(self.moving, some):
                    given[n] = x
                out = run(*given)
                return [out[n] for n in self.results], out

            _, pull_back, out = jax.vjp(of_moving, [args[n] for n in self.moving], has_aux=True)
            residuals, self._pull_back = jax.tree.flatten(pull_back)
            self._count = len(out)
            return [*out, *residuals]

        self._forward: jex.ClosedJaxpr = jax.make_jaxpr(forward)(*args)
        self._backward: jex.ClosedJaxpr | None = None
        jaxpr = self._forward.jaxpr
        self._inputs = [*jaxpr.constvars, *jaxpr.invars]
        given, results = set(self._inputs), jaxpr.outvars[handed_on : self._count]
        made = {v: None for v in results if jaxprs.is_variable(v) and v not in given}
        residuals = jaxpr.outvars[self._count :]
        kept, self._residuals, self._reads = fewest(jaxpr, residuals, {*given, *made})
        self._computed = [*made, *kept]

    def run(self, *given: Any) -> list[Any]:
        """The results that are handed on, and what it computes for others and for its way back."""
        jaxpr = self._forward.jaxpr
        outvars = [*jaxpr.outvars[: self._handed_on], *self._computed]
        compute = jaxprs.as_function(jaxpr.eqns, self._inputs, outvars, jaxpr)
        return compute(*self._forward.consts, *given)

    def kept_results(self, given: Arrays, computed: Arrays) -> list[Any]:
        """The results that are not handed on."""
        outvars = self._forward.jaxpr.outvars
        return self._values(outvars[self._handed_on : self._count], given, computed)

    def arguments(self, given: Arrays, computed: Arrays, errors: Arrays) -> list[Any]:
        """Those of the way back, which takes the errors of `results`."""
        return [*self._values(self._reads, given, computed), *errors]

    def way_back(self, arguments: Arrays) -> jex.ClosedJaxpr:
        """From its arguments to the errors of what is `moving`."""
        if self._backward is None:
            count = len(self._reads)

            def backward(*args: Any) -> list[Any]:
                pull_back = jax.tree.unflatten(self._pull_back, self._residuals(*args[:count]))
                return pull_back(list(args[count:]))[0]

            self._backward = jax.make_jaxpr(backward)(*arguments)
        return self._backward

    def _values(self, atoms: Sequence[Any], given: Arrays, computed: Arrays) -> list[Any]:
        env = dict(zip(self._inputs, [*self._forward.consts, *given]))
        env.update(zip(self._computed, computed))
        return [env[v] if jaxprs.is_variable(v) else jnp.asarray(v.val) for v in atoms]
