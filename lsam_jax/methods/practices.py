"""Methods with another part, set as somebody advises: Composer, LE-SAM's authors, and we."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from lsam_jax import arguments
from lsam_jax.components import cadence
from lsam_jax.components.radius import bounded
from lsam_jax.components.rise import rise
from lsam_jax.methods.layerwise_sam import layerwise_sam
from lsam_jax.methods.sam import sam
from lsam_jax.transform.transform import SamTransformation
from lsam_jax.transform.with_parts import with_parts


def le_sam(
    steps: int, sigma: float = 0.1, rho_max: Any = 0.5, anneal: float = 0.1
) -> SamTransformation:
    """LE-SAM: SAM with the radius min(sigma / ||g||, rho_max), sigma falling to 0 at the end.

    By a cosine, over the last of the steps. To first order sigma is what the perturbation adds to
    the loss; 0.3 fits where many labels are wrong. https://arxiv.org/abs/2605.10183

    Args:
      steps: of the whole run.
      sigma: as for `lsam_jax.bounded`, until then.
      rho_max: the largest radius, likewise.
      anneal: the share of the steps in which sigma falls, in (0, 1].

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.le_sam(steps=100, sigma=1.0)
    >>> for count in (0, 95, 100):
    ...     sam_state = tx.init(w)._replace(count=jnp.asarray(count))
    ...     loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, sam_state)
    ...     print([round(x, 3) for x in direction.tolist()])  # w + sigma w / ||w||^2
    [3.12, 4.16]
    [3.06, 4.08]
    [3.0, 4.0]
    """
    arguments.check_plain("steps", steps)
    arguments.check_count("steps", steps, low=1)
    arguments.check_number("sigma", sigma, low=0.0)
    arguments.check_plain("anneal", anneal, above=0.0, most=1.0)
    last = max(1, round(anneal * steps))
    falling = optax.cosine_decay_schedule(sigma, last)
    return sam(bounded(lambda count: falling(jnp.maximum(count - (steps - last), 0)), rho_max))


def sam_composer(rho: Any = 0.5, every: Any = 10) -> SamTransformation:
    """SAM as MosaicML's Composer advises it: in every tenth step, at ten times the radius.

    A step costs 1.1 gradients on average. Where labels are noisy that is too seldom: with
    40 % of them drawn anew a third of SAM's gain is kept, and all of it in every second step.

    Args:
      rho: the radius, as for `lsam_jax.sam`.
      every: steps from one perturbed step to the next.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.sam_composer()
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for _ in range(2):  # w + 0.5 w / ||w||, then w
    ...     loss, direction, sam_state = step(w, sam_state)
    ...     print([round(x, 2) for x in direction.tolist()])
    [3.3, 4.4]
    [3.0, 4.0]
    """
    return with_parts(sam(rho), when=cadence.every(every))


def layerwise_sam_recipe(k: Any = 4, rho: Any = 1.4) -> SamTransformation:
    """Layer-wise SAM as it pays: normalised, and descending on the perturbed gradient alone.

    Meant for `value_and_grad(..., ascent_batch=1 / 16)` of a batch of 128, where a step costs about
    1.1 gradients and keeps SAM's gain under label noise. The radius is that of a ResNet-8 on digits
    with 40 % of the labels drawn anew (results/compare/tune.log); clean labels, and a larger part
    of the batch, want a smaller one.

    Args:
      k: how many layers, as for `lsam_jax.layerwise_sam`.
      rho: the radius, as for `lsam_jax.layerwise_sam`.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([[3.0, 4.0]]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.layerwise_sam_recipe(k=1)
    >>> loss, direction, sam_state = lsam.value_and_grad(loss_fn, tx)(w, tx.init(w))
    >>> [round(x, 2) for x in direction[0].tolist()]  # w + 1.4 w / ||w||
    [3.84, 5.12]
    """
    return layerwise_sam(k, rho, 1.0, layers="kernel", normalize=True)


def noisy_labels(
    method: Callable[..., SamTransformation] = sam, share: float = 0.4, **options: Any
) -> SamTransformation:
    """A method whose radius sets itself, where many labels are wrong.

    A perturbation may undo 0.4 of what has been learnt: SAM, SAM on a part of the batch and
    layer-wise SAM then keep SAM's gain without a search (docs/radius.md). With AdamW 0.2 fits.

    Args:
      method: a method that takes `rho`.
      share: as for `lsam_jax.rise`.
      **options: further arguments of the method.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([[3.0, 4.0]]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.noisy_labels(lsam.layerwise_sam, k=1, normalize=True)
    >>> step, sam_state, radii = lsam.value_and_grad(loss_fn, tx), tx.init(w), []
    >>> for scale in (1.0, 0.5, 0.5):  # the first loss, then what has been learnt
    ...     loss, direction, sam_state = step(scale * w, sam_state)
    ...     radii.append(round(float(sam_state.rho), 3))
    >>> radii
    [0.0, 0.1, 0.122]
    """
    return method(rho=rise(share=share), **options)


def clean_labels(
    method: Callable[..., SamTransformation] = sam, share: float = 0.1, **options: Any
) -> SamTransformation:
    """A method whose radius sets itself, where labels are clean and there is little to gain.

    As `noisy_labels`, but a perturbation may undo 0.1 of what has been learnt.

    Args:
      method: a method that takes `rho`.
      share: as for `lsam_jax.rise`.
      **options: further arguments of the method.

    Raises:
      ValueError, TypeError: for an argument out of its range, naming it.

    >>> import jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.presets.clean_labels(lsam.asam)
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for scale in (1.0, 0.5):  # the first step has no loss to compare with, and moves nothing
    ...     loss, direction, sam_state = step(scale * w, sam_state)
    ...     print(round(float(sam_state.rho), 3))
    0.0
    0.1
    """
    return method(rho=rise(share=share), **options)
