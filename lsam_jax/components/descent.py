"""What the second pass differentiates: the loss, or something else at the perturbed weights."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lsam_jax.arrays import symbolic
from lsam_jax.arrays.vectors import along, inner
from lsam_jax.devices.shardings import lay_like, whole
from lsam_jax.engine import auxiliary
from lsam_jax.engine.perturbed_pass import Found, Second
from lsam_jax.losses import PerSample, SplitLoss

Leaves = Sequence[Any]


class Descent(NamedTuple):
    """What the second pass differentiates; without functions, the loss.

    Attributes:
      prepare: from the user's loss (a function of the parameters) and whether it has aux to a
        loss with aux `(user's aux, what the second pass needs)`; raises if it cannot be done.
      second: `(loss_fn, tree_of, need, clean, second) -> Found`: `tree_of` takes leaves to the
        parameters, and `need` those of aux to what the second pass needs; `clean` are the latter
        of the clean pass.
      is_gradient: whether that is a gradient of the loss, so that along the perturbation it says by
        how much the loss rises.
    """

    prepare: Callable[[Any, bool], Callable[[Any], Any]] | None = None
    second: Callable[[Any, Any, Callable[[Leaves], Any], Leaves, Second], Found] | None = None
    is_gradient: bool = True


of_loss = Descent()
"""The loss."""


def _with_cotangent(loss_fn: Any, has_aux: bool) -> Callable[[Any], Any]:
    if not isinstance(loss_fn, SplitLoss):
        raise TypeError(
            "functional_sam needs outputs and loss apart: pass lsam.split_loss(outputs, loss) as "
            f"the loss function (or .at(batch) of it as value_fn); got {type(loss_fn).__name__}."
        )

    def prepared(params: Any) -> Any:
        outputs = jax.tree.map(jnp.asarray, loss_fn.outputs(params))
        out = loss_fn.loss(outputs)
        loss, aux = out if has_aux else (out, None)

        def of_outputs(outputs: Any) -> Any:
            out = loss_fn.loss(outputs)
            return out[0] if has_aux else out

        cotangent = jax.grad(of_outputs, allow_int=True)(outputs)
        return loss, (aux, (outputs, cotangent))

    return prepared


def _along_clean_cotangent(
    loss_fn: Any,
    tree_of: Callable[[Leaves], Any],
    need: Callable[[Leaves], Any],
    clean: Leaves,
    second: Second,
) -> Found:
    cotangent = jax.tree.leaves(need(clean)[1])

    def objective(loss: Any, aux: list[Any]) -> Any:
        outputs = jax.tree.leaves(need(aux)[0])
        pairs = [(o, c) for o, c in zip(outputs, cotangent) if jnp.issubdtype(o.dtype, jnp.inexact)]
        return sum((inner([o], [c]) for o, c in pairs), jnp.zeros(()))

    return second.gradient(objective)


of_outputs = Descent(_with_cotangent, _along_clean_cotangent)
"""The outputs, along the gradient of the loss at the clean ones: `J(w')^T dl/dF(w)`."""


def of_gradient_norm(step: float) -> Descent:
    """The norm of the gradient, by a difference of gradients (GAM).

    With h the gradient at w' and u = h / ||h||: `(grad L(w' + c u) - h) / c`, c being `step`.
    """

    def second(
        loss_fn: Any,
        tree_of: Callable[[Leaves], Any],
        need: Callable[[Leaves], Any],
        clean: Leaves,
        second: Second,
    ) -> Found:
        def loss_of(leaves: Leaves) -> Any:
            return auxiliary.loss_of(loss_fn(tree_of(leaves)))

        loss, aux, h = second.gradient(lambda loss, aux: loss)
        ahead = jax.grad(loss_of)(along(second.weights, h, step))
        return loss, aux, [((a - d) / step).astype(d.dtype) for a, d in zip(ahead, h)]

    return Descent(second=second, is_gradient=False)


def of_samples(share: float) -> Descent:
    """The mean loss of the share of samples whose loss rose most (ESAM)."""

    def prepare(loss_fn: Any, has_aux: bool) -> Callable[[Any], Any]:
        if not isinstance(loss_fn, PerSample):
            raise TypeError(
                f"esam(gamma={share:g}) chooses samples, so it needs the loss of each: pass "
                "lsam.per_sample(losses) as the loss function (or .at(batch) of it as value_fn), "
                f"or gamma=1; got {type(loss_fn).__name__}."
            )

        def prepared(params: Any) -> Any:
            out = loss_fn.each(params)
            losses, aux = out if has_aux else (out, None)
            if jnp.ndim(losses) != 1:
                raise TypeError(
                    "per_sample needs a function that gives one loss for each sample, an array "
                    f"[B]; got one of shape {jnp.shape(losses)}."
                )
            return jnp.mean(losses), (aux, losses)

        return prepared

    def second(
        loss_fn: Any,
        tree_of: Callable[[Leaves], Any],
        need: Callable[[Leaves], Any],
        clean: Leaves,
        second: Second,
    ) -> Found:
        loss, aux = second.forward()
        before, after = need(clean), need(aux)
        (samples,) = after.shape
        if not symbolic.is_known(samples):
            raise ValueError(
                f"esam(gamma={share:g}) takes a share of the samples, so their number must be "
                f"known when it is compiled; it is {samples}. Export the step for a batch size "
                "that is a number, or pass gamma=1."
            )
        count = max(1, round(share * samples))
        _, worst = jax.lax.top_k(whole(after - before), count)
        # What is dealt out evenly to devices is filled up by samples that do not count.
        short = -count % loss_fn.parts
        chosen = loss_fn.of(worst if not short else worst[jnp.arange(count + short) % count])

        def mean(leaves: Leaves) -> Any:
            losses = auxiliary.loss_of(chosen.each(tree_of(leaves)))
            if not short:
                return jnp.mean(losses)
            counts = lay_like(jnp.arange(count + short) < count, losses)
            return jnp.sum(jnp.where(counts, losses, 0)) / count

        return loss, aux, jax.grad(mean)(list(second.weights))

    return Descent(prepare, second)
