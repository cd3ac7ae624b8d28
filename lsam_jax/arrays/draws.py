"""Keys of random draws: each purpose has its own, so that no draw says anything of another.

With one key for all, a step that a coin of seed 0 perturbs would draw its layers by the same bits;
and a random mask would be that of the signs of weights that were drawn from the same seed.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsam_jax.arguments import dtype_of


def key_for(purpose: str, seed: Any, count: Any = None) -> jax.Array:
    """A key, a function of these alone.

    Args:
      purpose: what is drawn.
      seed: a whole number, or a key.
      count: of the step; None for what is drawn once.

    >>> import jax
    >>> from lsam_jax.arrays.draws import key_for
    >>> coin, layers = (jax.random.uniform(key_for(of, 0, 3)) for of in ("coin", "layers"))
    >>> bool(coin == layers)
    False
    """
    key = seed if is_key(seed) else jax.random.key(seed)
    own = jax.random.fold_in(key, zlib.crc32(purpose.encode()))  # far from any count
    return own if count is None else jax.random.fold_in(own, count)


def check_seed(seed: Any) -> None:
    """Raises a TypeError unless `seed` is a whole number, traced or not, or a random key.

    And a ValueError for a number of more than 32 bits, which JAX would draw by the last of.
    """
    if isinstance(seed, int | np.integer) and not -(2**31) <= seed < 2**32:
        raise ValueError(f"seed must be below 2**32, and at least -2**31; got seed={seed!r}.")
    is_whole = jnp.issubdtype(dtype_of(seed), jnp.integer)
    if not (is_key(seed) or (is_whole and np.ndim(seed) == 0)):
        raise TypeError(
            f"seed must be a whole number, or a key made by jax.random.key; got seed={seed!r}."
        )


def is_key(x: Any) -> bool:
    """Whether it is a typed random key, as `jax.random.key` makes them."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
