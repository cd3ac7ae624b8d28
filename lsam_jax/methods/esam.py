"""ESAM: perturbs drawn weights, descends on the samples that suffer most."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays import symbolic
from lsam_jax.arrays.draws import check_seed, key_for
from lsam_jax.arrays.vectors import squared_norm
from lsam_jax.components.context import Arrays, StepContext, Targets
from lsam_jax.components.descent import Descent, of_loss
from lsam_jax.components.perturbation import Perturbation, along, normalized
from lsam_jax.components.radius import Radius
from lsam_jax.components.selection import independent
from lsam_jax.devices.shardings import lay_like, whole
from lsam_jax.engine import auxiliary
from lsam_jax.engine.step_rules import Leaves, PerturbedPass, ValueAuxGrad
from lsam_jax.losses import PerSample
from lsam_jax.transform.options import LayerOptions, with_options
from lsam_jax.transform.transform import SamTransformation, method


@with_options
def esam(
    rho: Radius = 0.05,
    beta: arguments.Scalar = 0.6,
    gamma: float = 0.5,
    *,
    weights: bool = False,
    seed: int = 0,
    **options: Unpack[LayerOptions],
) -> SamTransformation:
    """ESAM (Du et al. 2022): a random part of the network, and the samples that it hurts.

    Each layer is drawn with probability beta and moved by (rho / beta) g / ||g||, the norm over
    the drawn ones; the direction is the gradient there of the mean loss of the gamma share of
    samples whose loss rose most. What the draw does not need is not computed, and the backward
    pass there is over the chosen samples alone. https://arxiv.org/abs/2110.03141

    Args:
      rho: the radius; a number, a schedule, `per_layer`, `bounded` or `rise` radii.
      beta: the probability, in (0, 1]; a number or a schedule.
      gamma: the share of samples, in (0, 1]. Below 1 the loss must be that of samples: pass
        `per_sample(losses)` as the loss function of `value_and_grad` or, `.at(batch)`, as
        `value_fn`. Whatever is random in the loss is drawn anew for the chosen samples.
      weights: draws each weight instead of each layer (the paper, where the authors' code draws
        arrays), with the norm over all weights; this saves nothing.
      seed: of the draws.
      **options: `layers` (by default every array is one), `axis_name` and `perturbation_sync`, as
        for `layerwise_sam`.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it; when first used, if gamma
        is below 1 and the loss is not that of samples.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> loss_fn = lsam.per_sample(lambda w, x: (x @ w) ** 2 / 2)
    >>> tx = lsam.esam(rho=0.5, beta=1.0, gamma=0.5)
    >>> w, x = jnp.ones(1), jnp.asarray([[1.0], [2.0]])
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w), x)
    >>> direction.tolist()  # x^2 w' of the second sample, whose loss rose most, at w' = 1.5
    [6.0]
    """
    arguments.check_share("beta", beta)
    arguments.check_static("gamma", gamma, "decides what is compiled", above=0.0, most=1.0)
    arguments.check_truth("weights", weights)
    everything = weights or arguments.equals(beta, 1.0)
    return method(
        rho=rho,
        selection="all" if everything else independent(beta, seed),
        perturbation=some_weights(beta, seed) if weights else undiluted(beta),
        descent=of_loss if gamma == 1 else of_samples(float(gamma)),
        **options,
    )


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
            losses, aux = auxiliary.pair(out, has_aux)
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
        perturbed: PerturbedPass,
    ) -> ValueAuxGrad:
        loss, aux = perturbed.forward()
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

        return loss, aux, jax.grad(mean)(list(perturbed.weights))

    return Descent(prepare, second)


def undiluted(share: Any) -> Perturbation:
    """`w + (rho / share) g / ||g||`, to move as much as if not only a share were drawn (ESAM)."""

    def move(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any) -> list[Any]:
        rho = now.rho / arguments.resolve(share, now.count)
        return normalized.move(g, w, at, now._replace(rho=rho), memory)

    return Perturbation(move)


def some_weights(share: Any, seed: int) -> Perturbation:
    """`w + (rho / share) m g / ||g||`, each weight's m being 1 with probability `share` (ESAM)."""
    check_seed(seed)

    def move(g: Arrays, w: Arrays, at: Targets, now: StepContext, memory: Any) -> list[Any]:
        p = arguments.resolve(share, now.count)
        key = key_for("weights", seed, now.count)
        draws = [now.layers.draw(n, d, jax.random.uniform, key) for n, d in zip(at.leaf, g)]
        masked = [jnp.where(u < p, d, jnp.zeros_like(d)) for u, d in zip(draws, g)]
        return along(masked, squared_norm(g), w, at, now._replace(rho=now.rho / p))

    return Perturbation(move)
