"""`value_and_grad`, as JAX users differentiate: a method's other face."""

from collections.abc import Callable, Sequence
from typing import Any

from lsam_jax import arguments
from lsam_jax.devices.m_sharpness import check_micro_batches, in_micro_batches
from lsam_jax.engine.two_losses import AscentLoss
from lsam_jax.losses import PerSample, SplitLoss
from lsam_jax.transform import ascent_batch as samples
from lsam_jax.transform.method import check_climbs_another_loss
from lsam_jax.transform.signature import Call, check_options, signature_of, with_state
from lsam_jax.transform.transform import SamTransformation, check_method, step_of_any


def value_and_grad(
    loss_fn: Callable[..., Any],
    tx: SamTransformation,
    has_aux: bool = False,
    *,
    argnums: int | Sequence[int] = 0,
    m: int | None = None,
    ascent_batch: float | None = None,
    ascent_samples: Any = "even",
    clean_aux: bool = False,
    batch_argnums: int | Sequence[int] = 1,
    holomorphic: bool = False,
    allow_int: bool = False,
    reduce_axes: Sequence[str] = (),
) -> Callable[..., Any]:
    """Like `jax.value_and_grad`, for the direction of descent that `tx` defines.

    Both passes are made, nothing is computed twice. `loss` and `aux` come from the clean pass,
    so metrics and BatchNorm statistics are those of the weights that you have; whatever is
    random is the same in both passes. Call it under `jax.jit`. A loss that `jax.grad` takes but
    that cannot be traced first (Python's `if` on the batch outside of `jit`, say) costs two
    gradients of the whole, and a warning says what to change.

    Args:
      loss_fn: `loss_fn(params, *args, **kwargs)`, a real scalar, or `(loss, aux)`; some methods
        need it in parts, made by `split_loss` or `per_sample`.
      tx: what `layerwise_sam` or another method returns (not a chain).
      has_aux: whether `loss_fn` returns `(loss, aux)`.
      argnums: which arguments of `loss_fn` are the parameters. With several the parameters are
        a tuple, in `tx.init` and in what comes back.
      m: m-sharpness (Foret et al. 2021, section 4.1): every m samples of the batch get a
        perturbation of their own, and the directions there are averaged. The parts run side by
        side (`jax.vmap`, axis "micro_batch"), each with perturbed weights of its own; the loss is
        then the mean over the parts, and aux gets a leading axis of parts.
      ascent_batch: the part of the batch on which the ascent gradient is computed: a share, as 1/8,
        or a number of samples (under `jax.pmap` and `jax.shard_map`, of the device's own). A
        step on a share q costs at most 1 + q gradients. Loss and aux are then those of the second
        pass, the whole batch at the perturbed weights, and the state's `sharpness` is that loss
        minus the clean one of the part. 1.0 is the method itself.
      ascent_samples: which they are. "even": every eighth, say, so that each device takes them from
        its own rows; right for a batch that is shuffled, and for one that is sorted. "first": the
        first. "rotating": others in each step that perturbs, for batches that come again with the
        same samples in the same places. A random key (`jax.random.key(0)`): drawn anew in each.
      clean_aux: with ascent_batch, takes aux from the clean pass, on the part: statistics of
        BatchNorm, say, that are those of the weights that you have. Beside a cadence aux must be
        of the same shapes on the part and on the whole.
      batch_argnums: with m or ascent_batch, the positions of the arguments of `loss_fn` (by default
        0 is params) whose arrays have the samples along their first axis. Whatever else the loss
        takes (random keys, say) is the same in both passes.
      holomorphic: as `jax.value_and_grad` has it; only False.
      allow_int: likewise.
      reduce_axes: likewise; only (). See the methods' `axis_name`.

    Returns:
      A function `(params, sam_state, *args, **kwargs)` that returns `(loss, grads, sam_state)`,
      or `((loss, aux), grads, sam_state)`; `sam_state` starts as `tx.init(params)`. It takes the
      arguments of `loss_fn`, with the state behind the last of the parameters; parameters and
      state may be passed by name.

    Raises:
      TypeError: if `tx` is not a SAM transformation, the loss is not a real scalar, a parameter is
        not of a real floating type, or an argument of `jax.value_and_grad` is not taken.
      ValueError: if the state belongs to other parameters, m does not divide the batch, or
        ascent_batch cannot be taken of it or makes no sense for the method.

    >>> import jax, jax.numpy as jnp, optax
    >>> import lsam_jax as lsam
    >>> tx, sgd = lsam.layerwise_sam(k=1, rho=0.1), optax.sgd(0.1)
    >>> params = {"w1": jnp.eye(2), "w2": 2 * jnp.eye(2)}
    >>> loss_fn = lambda p, x: jnp.sum((x @ p["w1"] @ p["w2"]) ** 2)
    >>> value_and_grad = jax.jit(lsam.value_and_grad(loss_fn, tx))
    >>> loss, grads, sam_state = value_and_grad(params, tx.init(params), jnp.ones((1, 2)))
    >>> sam_state.selected.tolist()  # at first, the layer nearest the output
    [False, True]
    """
    arguments.check_callable("loss_fn", loss_fn, "Pass the loss itself, not its value.")
    check_method(tx)
    check_options(holomorphic=holomorphic, allow_int=allow_int, reduce_axes=reduce_axes)
    signature = signature_of(loss_fn, argnums)
    places: tuple[int, ...] = ()
    method, sampled = tx.method, None
    if m is not None:
        places = check_micro_batches(m, batch_argnums, signature.argnums)
        method = method._replace(axes=method.axes.with_micro_batches())
    if ascent_batch is not None:
        if m is not None:
            raise ValueError(
                f"m={m} gives each part of the batch a perturbation of its own, and ascent_batch="
                f"{ascent_batch} one to all from a part of it: choose one of the two."
            )
        taken = (ascent_batch, ascent_samples, batch_argnums)
        sampled = samples.ascent_batch(*taken, signature.argnums)
        check_climbs_another_loss(method)
    else:
        _check_no_part(ascent_samples, clean_aux)

    def part(params: Any, call: Call) -> Any:
        loss_of, ascent = _of_params(loss_fn, call), None
        some = None if sampled is None else sampled.of(call.args, call.state, method.cadence.turn)
        if some is not None:
            ascent = AscentLoss(_of_params(loss_fn, call._replace(args=some)), clean_aux)
        loss, aux, *rest = step_of_any(method, loss_of, params, call.state, has_aux, ascent)
        return aux, (loss, *rest)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = signature.take(args, kwargs)
        if min(signature.argnums) < 0 and (m is not None or sampled is not None):
            # Only now is it known which arguments the parameters are.
            arguments.check_argnums("batch_argnums", batch_argnums, call.argnums)
        params = call.params
        if m is None:
            aux, (loss, grads, new_state) = part(params, call)
        else:
            others = [None if n in call.argnums else x for n, x in enumerate(call.args)]
            aux, (loss, grads, new_state) = in_micro_batches(
                lambda *args: part(params, call._replace(args=list(args))), m, places, others
            )
        return ((loss, aux) if has_aux else loss), grads, new_state

    return with_state(wrapped, loss_fn, signature)


def _check_no_part(ascent_samples: Any, clean_aux: Any) -> None:
    for name, value, usual in (
        ("ascent_samples", ascent_samples, "even"),
        ("clean_aux", clean_aux, False),
    ):
        if value is not usual and not (isinstance(value, str) and value == usual):
            raise ValueError(
                f"{name}={value!r} says something of the part of the batch that ascent_batch= "
                f"names, and there is none: pass ascent_batch=1/8, say, or leave {name} out."
            )


def _of_params(loss_fn: Callable[..., Any], call: Call) -> Callable[[Any], Any]:
    if isinstance(loss_fn, SplitLoss | PerSample):  # whose parts a method may need
        return loss_fn.at(*call.args[1:], **call.kwargs)
    return lambda params: loss_fn(*call.at(params), **call.kwargs)
