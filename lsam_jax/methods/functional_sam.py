"""Functional SAM: the outputs are perturbed, the loss's gradient is not."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from lsam_jax.arrays.vectors import vdot
from lsam_jax.components.descent import Descent
from lsam_jax.components.radius import Radius
from lsam_jax.engine import auxiliary
from lsam_jax.engine.step_rules import Leaves, PerturbedPass, ValueAuxGrad
from lsam_jax.losses import SplitLoss
from lsam_jax.transform.options import SelectionOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def functional_sam(rho: Radius = 0.05, **options: Unpack[SelectionOptions]) -> SamTransformation:
    """Functional-SAM (Singh et al. 2025): the Jacobian there, the error here.

    With F the network's outputs and l their loss, the direction is J_F(w')^T dl/dF(F(w)), where
    w' = w + rho g / ||g||: only how the outputs depend on the weights is taken at the perturbed
    weights. https://arxiv.org/abs/2502.02407

    The loss must come in its two parts: `split_loss(outputs, loss)`, as the loss function of
    `value_and_grad` or, `.at(batch)`, as `value_fn`.

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      **options: `k`, `selection` (by default "all"), `layers` (by default every array is one),
        `axis_name` and `perturbation_sync`, as for `layerwise_sam`.

    Raises:
      TypeError: when first used, if the loss is not in two parts.
      ValueError: if `rho` is out of its range; from `update`, if only a `grad_fn` is given.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> loss_fn = lsam.split_loss(lambda w: w**2, lambda outputs: jnp.sum(outputs**2) / 2)
    >>> tx, w = lsam.functional_sam(rho=0.5), jnp.ones(1)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> direction.tolist()  # 2 w' w^2 with w' = 1.5, where SAM has 2 w'^3
    [3.0]
    """
    return method(rho=rho, descent=of_outputs, **options)


def _with_cotangent(loss_fn: Any, has_aux: bool) -> Callable[[Any], Any]:
    if not isinstance(loss_fn, SplitLoss):
        raise TypeError(
            "functional_sam needs outputs and loss apart: pass lsam.split_loss(outputs, loss) as "
            f"the loss function (or .at(batch) of it as value_fn); got {type(loss_fn).__name__}."
        )

    def prepared(params: Any) -> Any:
        outputs = jax.tree.map(jnp.asarray, loss_fn.outputs(params))
        out = loss_fn.loss(outputs)
        loss, aux = auxiliary.pair(out, has_aux)

        def of_outputs(outputs: Any) -> Any:
            return auxiliary.loss_of(loss_fn.loss(outputs))

        cotangent = jax.grad(of_outputs, allow_int=True)(outputs)
        return loss, (aux, (outputs, cotangent))

    return prepared


def _along_clean_cotangent(
    loss_fn: Any,
    tree_of: Callable[[Leaves], Any],
    need: Callable[[Leaves], Any],
    clean: Leaves,
    perturbed: PerturbedPass,
) -> ValueAuxGrad:
    cotangent = jax.tree.leaves(need(clean)[1])

    def objective(loss: Any, aux: list[Any]) -> Any:
        outputs = jax.tree.leaves(need(aux)[0])
        pairs = [(o, c) for o, c in zip(outputs, cotangent) if jnp.issubdtype(o.dtype, jnp.inexact)]
        # Of complex outputs JAX's gradient is the conjugate, so that their product needs none.
        return sum((jnp.real(vdot([o], [c])) for o, c in pairs), jnp.zeros(()))

    return perturbed.gradient(objective)


of_outputs = Descent(_with_cotangent, _along_clean_cotangent)
"""The outputs, along the gradient of the loss at the clean ones: `J(w')^T dl/dF(w)`."""
