"""Flat-LoRA: adapters trained at noisy frozen weights, at one gradient a step.

Nothing that is trained is perturbed: the parameters are the adapters, and the noise lies on the
frozen weights, which the loss only reads. So it is no method with a state, but a function to call
inside the loss.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lsam_jax import arguments
from lsam_jax.arrays import promotion
from lsam_jax.arrays.draws import check_seed, key_for
from lsam_jax.arrays.vectors import widened
from lsam_jax.devices.shardings import draw_like


@promotion.usual
def flat_lora(
    weights: Any,
    step: Any,
    *,
    rho: arguments.Scalar,
    steps: Any,
    merged: Any = None,
    seed: Any = 0,
    output_axis: int = -1,
) -> Any:
    """Frozen weights with Gaussian noise, to be used in the loss of adapters (Flat-LoRA).

    Adapters alone can only look for a flat minimum among the weights that they reach. With W' the
    merged weights, frozen ones and adapters together, the gradient is taken at W' + eps, where

        eps_ij = rho c_t ||W'_i|| / sqrt(n) z_ij,    c_t = (1 - cos(pi t / T)) / 2,

    z_ij is standard normal, W'_i the n weights of one output unit (a row of the paper's W, which
    is [out, in]; a column of a kernel [in, out]), t the step and T how many there are. The noise
    is a constant to the gradient. Arrays of rank 1 or 0 get none. Li et al. 2024,
    https://arxiv.org/abs/2409.14396

    A step costs one gradient and one draw. The noise is a function of seed, step and the place of
    the array in the tree alone, so it is not stored, all devices agree on it, and a loss under
    `jax.checkpoint` draws it again instead of keeping the noisy weights.

    Args:
      weights: the arrays to which noise is added: the merged weights, or the frozen ones alone, so
        that `x @ noisy + (x @ a) @ b` keeps the adapters' gradient as cheap as it is.
      step: t, counted from 0; traced or not. Beyond T c_t stays 1.
      rho: how large the noise is, relative to the weights, at the end of the run; at least 0. A
        number or a schedule. 0 adds nothing.
      steps: T, at least 1.
      merged: W', a tree like `weights`, if that is not the merged weights.
      seed: a whole number, or a key made by `jax.random.key`.
      output_axis: of arrays of rank 2 or more, the axis of output units: -1 for JAX's kernels
        [..., in, out], 0 for weights [out, in].

    Returns:
      A tree like `weights`, of the same types.

    Raises:
      TypeError: if an array of rank 2 or more is not of a real floating type, or another argument
        is of a wrong kind.
      ValueError: if an argument is out of its range, or `merged` is not like `weights`.

    >>> import jax, jax.numpy as jnp
    >>> import lsam_jax as lsam
    >>> x, frozen = jax.random.normal(jax.random.key(0), (2, 32, 8))
    >>> y = x @ (frozen[:8] + 1.0)
    >>> lora = {"a": jax.random.normal(jax.random.key(1), (8, 2)), "b": jnp.zeros((2, 8))}
    >>> def loss_fn(lora, step):  # with W [in, out], frozen
    ...     W = frozen[:8]
    ...     noisy = lsam.flat_lora(
    ...         W, step, rho=0.1, steps=200, merged=W + lora["a"] @ lora["b"], seed=1
    ...     )
    ...     return jnp.mean((x @ noisy + (x @ lora["a"]) @ lora["b"] - y) ** 2)
    >>> train = jax.jit(lambda lora, step: jax.tree.map(
    ...     lambda p, g: p - 0.05 * g, lora, jax.grad(loss_fn)(lora, step)))
    >>> first = loss_fn(lora, 0)  # without noise
    >>> for step in range(200):
    ...     lora = train(lora, step)
    >>> bool(loss_fn(lora, 0) < 0.1 * first)
    True
    """
    _check(rho, step, steps, seed)
    treedef: Any
    leaves, treedef = jax.tree.flatten(weights)
    scales, found = (leaves, treedef) if merged is None else jax.tree.flatten(merged)
    if found != treedef:
        raise ValueError(f"merged must be a tree like weights, {treedef}; got {found}.")
    count = jnp.asarray(step).astype(jnp.int32)
    share = jnp.minimum(count.astype(jnp.result_type(float)) / steps, 1)
    size = arguments.resolve(rho, count) * (1 - jnp.cos(math.pi * share)) / 2
    key = key_for("noise", seed, count)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(weights)]
    noisy = []
    for n, (path, w, scale) in enumerate(zip(paths, leaves, scales)):
        if jnp.ndim(w) < 2:
            noisy.append(w)
            continue
        _check_array(path, w, scale, output_axis)
        eps = _noise(jnp.asarray(scale), size, jax.random.fold_in(key, n), output_axis)
        # Rounded once, at the end; what is not to move keeps its bits, -0 among them.
        noisy.append(jnp.where(eps == 0, w, (w + eps).astype(jnp.asarray(w).dtype)))
    return jax.tree.unflatten(treedef, noisy)


def _noise(w: jax.Array, size: Any, key: jax.Array, output_axis: int) -> jax.Array:
    """`size ||w_i|| / sqrt(n) z`, that is, times the root mean square of each output unit."""
    wide = widened(w)
    inputs = [axis for axis in range(w.ndim) if axis != output_axis % w.ndim]
    rms = jnp.sqrt(jnp.mean(wide * wide, axis=inputs, keepdims=True))
    z = draw_like(wide, jax.random.normal, key, wide.dtype)
    return jax.lax.stop_gradient((size * rms).astype(wide.dtype) * z)


def _check(rho: Any, step: Any, steps: Any, seed: Any) -> None:
    arguments.check_real("rho", rho, low=0.0)
    for name, value, low in (("step", step, 0), ("steps", steps, 1)):
        if callable(value):
            raise TypeError(f"{name} must be a whole number; got the function {value!r}.")
        arguments.check_count(name, value, low=low)
    check_seed(seed)


def _check_array(path: str, w: Any, scale: Any, output_axis: int) -> None:
    dtype = jnp.result_type(w)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"weights{path} is {dtype}, and noise needs a real floating type: dequantize it first, "
            "w.astype(jnp.bfloat16) * scale, say."
        )
    if jnp.shape(scale) != jnp.shape(w):
        raise ValueError(
            f"merged{path} has the shape {jnp.shape(scale)}, and weights{path} {jnp.shape(w)}: "
            "they must be the same."
        )
    rank = jnp.ndim(w)
    if isinstance(output_axis, bool) or not isinstance(output_axis, int):
        raise TypeError(f"output_axis must be a whole number; got output_axis={output_axis!r}.")
    if not -rank <= output_axis < rank:
        raise ValueError(
            f"output_axis={output_axis} is no axis of weights{path}, which has {rank}."
        )
