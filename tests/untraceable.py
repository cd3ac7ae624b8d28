"""Losses that `jax.grad` differentiates and that cannot be traced first, each with a twin that can.

`x @ deep/1/w`, a middle, `@ join/w + join/b`: the order of the network is that of the tree.
"""

import jax
import jax.numpy as jnp
import numpy as np


def problem(seed=0):
    rng = np.random.default_rng(seed)
    a, b, c = (jnp.asarray(rng.normal(size=s)) for s in ((3, 4), (4, 2), (2,)))
    params = {"deep": {"1": {"w": a}}, "join": {"w": b, "b": c}}
    batches = [jnp.asarray(rng.normal(size=(6, 3))) for _ in range(2)]
    return params, batches


def network(middle):
    """The loss of each sample, with a function in the middle: `middle(x, hidden, params)`."""

    def losses(p, x):
        hidden = middle(x, jnp.tanh(x @ p["deep"]["1"]["w"]), p)
        return jnp.sum((hidden @ p["join"]["w"] + p["join"]["b"] - 0.5) ** 2, 1)

    return losses


def masked_by(keep):
    """Half the gradient where it is masked, nothing of the value."""
    return jnp.where(keep, 1.0, 0.0), jnp.where(keep, 1.0, 0.5)


@jax.custom_vjp
def with_arguments(keep, h):
    return masked_by(keep)[0] * h


with_arguments.defvjp(
    lambda keep, h: (masked_by(keep)[0] * h, keep),
    lambda keep, g: (None, masked_by(keep)[1] * g),
)


def closes_over_batch(x, h, p):
    keep = jnp.sum(x, 1, keepdims=True) > 0

    @jax.custom_vjp
    def f(h):
        return masked_by(keep)[0] * h

    f.defvjp(lambda h: (f(h), None), lambda _, g: (masked_by(keep)[1] * g,))
    return f(h)


def rule_closes_over_batch(x, h, p):
    """As above, and only the rules close over the value."""
    keep = jnp.sum(x, 1, keepdims=True) > 0

    @jax.custom_jvp
    def f(h, keep_):
        return masked_by(keep_)[0] * h

    f.defjvp(lambda w, t: (masked_by(keep)[0] * w[0], masked_by(keep)[1] * t[0]))
    return f(h, keep)


def with_batch(x, h, p):
    return with_arguments(jnp.sum(x, 1, keepdims=True) > 0, h)


def branch_on_batch(x, h, p):
    return jnp.sin(h) if jnp.mean(x) > 0 else jnp.cos(h)


def select_on_batch(x, h, p):
    return jnp.where(jnp.mean(x) > 0, jnp.sin(h), jnp.cos(h))


def branch_on_params(x, h, p):
    return jnp.sin(h) if jnp.mean(p["deep"]["1"]["w"]) > -0.2 else jnp.cos(h)


def select_on_params(x, h, p):
    return jnp.where(jnp.mean(p["deep"]["1"]["w"]) > -0.2, jnp.sin(h), jnp.cos(h))


def in_numpy(x, h, p):
    return h * np.linalg.norm(np.asarray(jnp.sin(x)), axis=0)[:1]


def in_jax(x, h, p):
    return h * jnp.linalg.norm(jnp.sin(x), axis=0)[:1]


def sliced(x, h, p):
    count = jnp.sum(x[:, 0] > 0)
    return h.at[:count].multiply(2.0)


def where_not_sliced(x, h, p):
    return jnp.where(jnp.arange(len(h))[:, None] < jnp.sum(x[:, 0] > 0), 2 * h, h)


def selected(x, h, p):
    return h.at[x[:, 0] > 0].set(0.0) + jnp.mean(h[x[:, 0] > 0])


def where_not_selected(x, h, p):
    on = (x[:, 0] > 0)[:, None]
    return jnp.where(on, 0, h) + jnp.sum(jnp.where(on, h, 0)) / (jnp.sum(on) * h.shape[1])


def formatted(x, h, p):
    return h * (2 + float(f"{jnp.mean(x):.3f}"))


def rounded(x, h, p):
    return h * (2 + jnp.round(jnp.mean(x), 3))


CLOSING = {
    "custom_vjp": (closes_over_batch, with_batch),
    "custom_jvp": (rule_closes_over_batch, with_batch),
}
EAGER = {
    "a branch on the batch": (branch_on_batch, select_on_batch),
    "a branch on the parameters": (branch_on_params, select_on_params),
    "NumPy": (in_numpy, in_jax),
    "a slice": (sliced, where_not_sliced),
    "a mask": (selected, where_not_selected),
    "a string": (formatted, rounded),
}
