"""A method with other parts than its own: another ascent, another cadence."""

from typing import Any

from lsam_jax.components.ascent import Ascent
from lsam_jax.components.cadence import Cadence
from lsam_jax.components.combination import Combination
from lsam_jax.transform.method import Method, check_together
from lsam_jax.transform.transform import SamTransformation, transformation

OWN_STEPS = Combination._field_defaults["plain_step"]


def with_parts(
    tx: SamTransformation, *, ascent: Ascent | None = None, when: Cadence | None = None
) -> SamTransformation:
    """The method `tx` with another ascent, or another cadence; all else stays.

    Outside of its cadence a step is the plain gradient's, and costs one. What makes no sense is
    refused:

    - another ascent for a method with an estimate of its own (`adazo_sam`, `momentum_sam`, `gam`);
    - an ascent without a clean pass, as `stale` is, where the clean gradient is needed: to be
      mixed (`generalized_sam` and `layerwise_sam` unless alpha is 1, `gsam`, `stable_sam`,
      `look_sam`), to decide (`ae_sam`), to teach a bandit (`sl_sam`); or the clean outputs or
      losses are (`functional_sam`, `esam` unless gamma is 1);
    - `stale(fresh=...)` where the layers to move are not known before a step is compiled;
    - another cadence for a method that has a rule of its own for the steps between (`look_sam`) or
      for when to perturb (`ae_sam`), or that trains the perturbed layers alone (`sl_sam`).

    Args:
      tx: what a method returns.
      ascent: uphill by what: `stale`; None keeps the method's.
      when: `every`, `between`, `bernoulli`; None keeps the method's.

    Raises:
      TypeError: if `tx` is not a method, `ascent` not an ascent or `when` not a cadence.
      ValueError: if the method and the part do not go together.

    >>> import lsam_jax as lsam
    >>> import jax.numpy as jnp
    >>> w, loss_fn = jnp.asarray([3.0, 4.0]), lambda w: jnp.sum(w**2) / 2  # its gradient is w
    >>> tx = lsam.with_parts(lsam.sam(rho=2.5), ascent=lsam.stale(), when=lsam.between(1))
    >>> step, sam_state = lsam.value_and_grad(loss_fn, tx), tx.init(w)
    >>> for _ in range(2):  # one gradient a step, and from the second on a perturbed one
    ...     loss, direction, sam_state = step(w, sam_state)
    ...     print(direction.tolist())
    [3.0, 4.0]
    [4.5, 6.0]
    """
    if not isinstance(tx, SamTransformation):
        raise TypeError(
            f"tx must be what a method such as sam(...) returns; got {type(tx).__name__}. Change "
            "its parts before it is chained, masked or injected into."
        )
    method = tx.method
    if ascent is not None:
        method = _climbing(method, ascent)
    if when is not None:
        method = _timed(method, when)
    return transformation(method)


def _climbing(method: Method, ascent: Any) -> Method:
    if not isinstance(ascent, Ascent):
        raise TypeError(f"ascent must be an ascent such as stale(); got {ascent!r}.")
    if method.ascent.estimate is not None:
        raise ValueError(
            "ascent=... does not go with a method that climbs by something else than the clean "
            "gradient already (adazo_sam, momentum_sam, gam, or one with another ascent): give it "
            "to sam, layerwise_sam or asam, say."
        )
    climbing = method._replace(ascent=ascent)
    check_together(climbing)
    return climbing


def _timed(method: Method, when: Any) -> Method:
    if not isinstance(when, Cadence):
        raise TypeError(f"when must be a cadence such as every(10); got {when!r}.")
    if method.combination.plain_step is not OWN_STEPS:
        raise ValueError(
            "when=... does not go with a method that has a rule of its own for the steps between "
            "perturbed ones (look_sam): pass it every=..., or give when=... to sam."
        )
    if method.cadence.decide is not None:
        raise ValueError(
            "when=... does not go with a method that decides by the gradient when to perturb "
            "(ae_sam): pass it a schedule as threshold (inf perturbs nothing), or give when=... to "
            "sam."
        )
    if not method.combination.descend_unselected:
        raise ValueError(
            "when=... does not go with a method that trains the perturbed layers alone (sl_sam): a "
            "step without perturbation would train none. Give it to layerwise_sam."
        )
    timed = method._replace(cadence=when)
    check_together(timed)
    return timed
