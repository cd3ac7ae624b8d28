"""The largest eigenvalues of the Hessian, by Lanczos through Hessian-vector products.

The iteration is ARPACK's, through SciPy, which JAX itself needs: implicitly restarted, with the
reorthogonalisation that float32 products call for, and with a stopping rule. Its vectors live on
the host in float64; only the products are the device's.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from lsam_jax.arrays import promotion
from lsam_jax.diagnostics.batches import Loss, calls
from lsam_jax.diagnostics.block import block
from lsam_jax.diagnostics.hessian import on_block
from lsam_jax.layers.partition import LayerSpec

BASIS = 8
"""Vectors that Lanczos keeps at least. Each round takes about as many products; for the largest
eigenvalue of a network one is often enough, and ARPACK's own choice of 20 for nothing."""
ROUNDS = 300


@promotion.usual
def hessian_eigenvalues(
    loss_fn: Loss,
    params: Any,
    *args: Any,
    key: jax.Array,
    k: int = 1,
    tolerance: float = 1e-3,
    batches: Any = None,
    layer: str | None = None,
    layers: LayerSpec = "kernel",
) -> np.ndarray:
    """The k largest eigenvalues of the Hessian, of the whole network or of one layer.

    Those of a layer are of the diagonal block of the Hessian: of the loss as a function of that
    layer alone. In up to 8 dimensions they are exact, from as many products.

    Args:
      loss_fn: `loss_fn(params, *args)`, a real scalar. BatchNorm should use its running statistics
        and dropout be off.
      params: where.
      *args: further arguments of the loss.
      key: a random key, for the vector that the iteration starts from.
      k: how many, at most as many as there are parameters.
      tolerance: of the eigenvalues, relative; if not all are above 0, relative to the largest by
        magnitude. 0 for machine precision, which float32 products do not reach.
      batches: a sequence of batches of one shape; the loss is then the mean of
        `loss_fn(params, batch, *args)`. None if `args` have all of the data.
      layer: the layer's name, as `lsam_jax.layer_names` gives it; None for all parameters.
      layers: how the parameters are cut into layers; see `lsam_jax.layer_names`.

    Returns:
      f64[k], the largest first; by value, not by magnitude.

    Raises:
      ValueError: if there is no such layer, `k`, `tolerance` or `batches` cannot serve, or the
        tolerance is not reached.
      TypeError: if the loss is not a real scalar.
      FloatingPointError: if the Hessian is not finite.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from lsam_jax import diagnostics
    >>> loss_fn = lambda p: jnp.sum(jnp.array([[1.0, 2.0, 4.0]]) * p["w"] ** 2) / 2
    >>> params = {"w": jnp.ones((1, 3))}
    >>> print(diagnostics.hessian_eigenvalues(loss_fn, params, key=jax.random.key(0), k=2))
    [4. 2.]
    """
    every = calls(args, batches)
    inside = block(params, layer, layers)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= inside.size:
        raise ValueError(f"k must be a whole number from 1 to {inside.size}; got k={k!r}.")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must lie in [0, 1); got tolerance={tolerance!r}.")
    product = on_block(loss_fn, params, inside, every)
    if inside.size <= _basis(k):
        matrix = np.stack([product(row) for row in np.eye(inside.size)])
        return np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1][:k]
    start = np.asarray(jax.random.normal(key, (inside.size,)), np.float64)
    return _by_lanczos(product, start, k, tolerance)


def _basis(k: int) -> int:
    return max(2 * k + 1, BASIS)


def _by_lanczos(
    product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, k: int, tolerance: float
) -> np.ndarray:
    """The k largest eigenvalues, f64[k], of the matrix that multiplies vectors [N]."""
    ahead = product(start)  # a step of the power method
    if not ahead.any():  # ARPACK cannot start from 0
        return np.zeros(k)
    found = _largest(product, ahead, k, tolerance)
    if found is not None and found[-1] >= 0:
        return found
    # To ARPACK no eigenvalue of 0 is ever near enough, as it measures by the eigenvalue itself; and
    # a step of the power method has nothing of its vectors. With a shift none of the largest is 0.
    unit = ahead / np.linalg.norm(ahead)
    shift = 2 * np.linalg.norm(product(unit))
    both = unit + start / np.linalg.norm(start)
    shifted = _largest(lambda vector: product(vector) + shift * vector, both, k, tolerance)
    if shifted is None or (found is None and shifted[-1] > (1 + tolerance) * shift):
        raise ValueError(
            f"tolerance={tolerance} was not reached for k={k} within {ROUNDS} rounds of Lanczos; "
            "make it larger, or k."
        )
    # Both are bounds from below.
    return shifted - shift if found is None else np.maximum(found, shifted - shift)


def _largest(
    product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, k: int, tolerance: float
) -> np.ndarray | None:
    """As ARPACK finds them, the largest first; None if it does not."""
    operator = LinearOperator((start.size, start.size), matvec=product, dtype=np.float64)
    try:
        found = eigsh(
            operator,
            k,
            which="LA",
            v0=start,
            ncv=_basis(k),
            maxiter=ROUNDS,
            tol=tolerance,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence:
        return None
    return np.sort(found)[::-1]
