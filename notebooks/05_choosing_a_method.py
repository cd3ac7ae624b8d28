# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Choosing a method
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/05_choosing_a_method.ipynb)
#
# The family's methods are exchangeable: each is an object that goes into `lsam.value_and_grad` or a
# chain. They differ in what a step costs, and this can be counted before anything runs. What they do
# for the accuracy depends on the task, and only runs with several seeds can tell.

# %%
import subprocess
import sys

SOURCE = "lsam-jax"  # or "git+https://github.com/OWNER/REPO"
if "google.colab" in sys.modules:  # it has all else, and its jax stays
    packages = [SOURCE, "importlib_resources"]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *packages], check=True)

# %%
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import make_moons

import lsam_jax as lsam
from lsam_jax.experiments.models import registry

SHORT = os.environ.get("LSAM_NOTEBOOK_SHORT") == "1"
STEPS, SEEDS = (100, 2) if SHORT else (1000, 10)
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## What does a layer cost?
#
# `lsam.inspect` traces the loss of a network, here a ResNet-20 for 32x32 images, and computes nothing:
# shapes are enough. The cost of a step depends on the first layer that it perturbs, because all in
# front of that layer is the same in both passes. Even with the first layer it is below SAM's, because
# the ascent then needs no gradients of the other layers' weights.

# %%
network = registry.preset("resnet20")(num_classes=10)
images = jax.ShapeDtypeStruct((128, 32, 32, 3), jnp.float32)
labels = jax.ShapeDtypeStruct((128,), jnp.int32)
variables = jax.eval_shape(network.init, jax.random.key(0), images)


def image_loss(params, batch_stats, images, labels):
    logits, new = network.apply(
        {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"]
    )
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new


args = variables["params"], variables["batch_stats"], images, labels
inspection = lsam.inspect(image_loss, *args, k=4)
names = [layer.name for layer in inspection.layers]

# %%
figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
axes.plot([layer.cost for layer in inspection.layers], "o-", color="#0072B2", markersize=4)
for name in inspection.cuts:
    axes.axvline(names.index(name), color="#D55E00", linestyle="--", linewidth=1)
axes.axvline(np.nan, color="#D55E00", linestyle="--", linewidth=1, label="where the engine may cut")
axes.set_xticks(
    range(len(names)), [n.removesuffix("/kernel") for n in names], rotation=60, ha="right"
)
axes.set(
    title="Counted cost of a step by the first layer that it perturbs, ResNet-20",
    xlabel="first perturbed layer, from the input to the output",
    ylabel="cost (gradients of SGD)",
    ylim=(0.95, 2.05),
)
axes.axhline(2, color="0.5", linewidth=1)
axes.text(len(names) - 1, 1.98, "SAM", ha="right", va="top", color="0.3")
axes.legend(loc="upper center")
plt.show()

# %% [markdown]
# From this, the price of the family's cheaper members in this network. LookSAM pays for its second
# gradient in every fifth step only.

# %%
near_output, with_stem = names[-4:], [names[0], *names[-3:]]
part, whole = inspection.cost(near_output), inspection.cost(with_stem)
sam = inspection.cost(names)
PRICES = {
    "SGD, momentum_sam": 1.0,
    "look_sam(every=5)": 1 + (sam - 1) / 5,
    "layerwise_sam(k=4), four last layers": part,
    "layerwise_sam(k=4), stem and three last": whole,
    "look_sam(every=5, k=4), stem and three last": 1 + (whole - 1) / 5,
    "sam, asam, gsam, stable_sam": sam,
}
for name, price in PRICES.items():
    print(f"{name:45}{price:6.2f}")

# %% [markdown]
# ## A problem in which flatness can matter
#
# Two moons, few samples, and 20 % of the training labels wrong; test labels are right. A network that
# fits the wrong labels does badly. The radii are the methods' defaults or the papers', tuned for
# neither the problem nor the network. The last column's ± is the standard error of the mean.

# %%
METHODS = {
    "SGD": None,
    "momentum_sam": lsam.momentum_sam(),
    "look_sam(every=5)": lsam.look_sam(0.1, every=5),
    "layerwise_sam(k=2)": lsam.layerwise_sam(k=2, rho=0.1, normalize=True),
    "layerwise, budget(0.3)": lsam.layerwise_sam(
        k=2, rho=0.1, normalize=True, selection=lsam.budget(0.3)
    ),
    "sam": lsam.sam(0.1),
    "asam": lsam.asam(0.5),
}
WIDTH, LAYERS, WRONG = 64, 5, 0.2


def problem(seed):
    x, y = make_moons(150, noise=0.2, random_state=seed)
    rng = np.random.default_rng(seed)
    flipped = rng.random(len(y)) < WRONG
    x_test, y_test = make_moons(2000, noise=0.2, random_state=1000 + seed)
    return (x.astype(np.float32), y ^ flipped), (x_test.astype(np.float32), y_test)


def init(key):
    keys, sizes = jax.random.split(key, LAYERS), [2, *[WIDTH] * (LAYERS - 1), 2]
    return {
        f"dense{i}": {"kernel": jax.random.normal(k, (n, m)) * (2 / n) ** 0.5, "bias": jnp.zeros(m)}
        for i, (k, n, m) in enumerate(zip(keys, sizes[:-1], sizes[1:]), start=1)
    }


def logits_of(params, x):
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def loss_fn(params, batch):
    logits = logits_of(params, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


# %%
optimizer = optax.sgd(0.05, momentum=0.9)


@functools.partial(jax.jit, static_argnums=0)
def train(method, params, batch):
    """All steps on the whole of the few samples."""

    def step(state, _):
        params, sam_state, opt_state = state
        if method is None:
            grads = jax.grad(loss_fn)(params, batch)
        else:
            _, grads, sam_state = lsam.value_and_grad(loss_fn, method)(params, sam_state, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), sam_state, opt_state), None

    start = params, None if method is None else method.init(params), optimizer.init(params)
    (params, sam_state, _), _ = jax.lax.scan(step, start, length=STEPS)
    return params, sam_state


@jax.jit
def accuracy(params, batch):
    return 100 * jnp.mean(logits_of(params, batch[0]).argmax(-1) == batch[1])


results = {}
for name, method in METHODS.items():
    results[name] = []
    for seed in range(SEEDS):
        fitted, held_out = problem(seed)
        params, _ = train(method, init(jax.random.key(seed)), fitted)
        results[name].append((accuracy(params, fitted), accuracy(params, held_out)))
results = {name: np.array(pairs) for name, pairs in results.items()}

# %% [markdown]
# All methods see the same data and start from the same parameters for a seed, so the difference to
# SGD can be taken seed by seed, which is much less noisy than the accuracies themselves.

# %%
print(f"{'':24}{'training (%)':>13}{'test (%)':>16}{'test minus SGD':>18}")
for name, pairs in results.items():
    train_mean, test = pairs[:, 0].mean(), pairs[:, 1]
    gain = test - results["SGD"][:, 1]
    error = gain.std(ddof=1) / SEEDS**0.5
    print(
        f"{name:24}{train_mean:13.1f}{f'{test.mean():.1f} ±{test.std(ddof=1):.1f}':>16}"
        f"{f'{gain.mean():+.1f} ±{error:.1f}':>18}"
    )

# %%
figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
for place, pairs in enumerate(results.values()):
    gain = pairs[:, 1] - results["SGD"][:, 1]
    axes.plot(gain, np.full(SEEDS, place), "o", color="#0072B2", alpha=0.4)
    axes.plot(gain.mean(), place, "D", color="#D55E00")
axes.plot([], [], "o", color="#0072B2", alpha=0.4, label="a seed")
axes.plot([], [], "D", color="#D55E00", label="mean")
axes.axvline(0, color="0.5", linewidth=1)
axes.set_yticks(range(len(results)), list(results))
axes.invert_yaxis()
axes.set(
    title=f"Two moons with wrong labels, {SEEDS} seeds",
    xlabel="test accuracy minus that of SGD with the same seed (percentage points)",
    ylabel="method",
)
axes.legend()
plt.show()

# %% [markdown]
# ## What this says, and what it does not
#
# In the stored run, of ten seeds, SGD learns the wrong labels, and most methods keep it from some of
# that. Layer-wise SAM
# gains about what SAM does. Under a budget it may perturb only layers near the output, and here gains
# nothing: a low price is no use if the sharp layers lie elsewhere. The order of the methods is that of
# one problem, one network and untuned radii (`momentum_sam` and `asam` go further than the others by
# default); a larger radius may be all that separates them.
#
# Advice that does not depend on it:
#
# | you want | take |
# |---|---|
# | SAM's gain for little | `sam(rise(share=0.4))` with `ascent_batch=1 / 8` |
# | most of it, and no second gradient | `with_parts(sam(rise(share=0.4)), ascent=stale())` |
# | a price that is fixed beforehand | `layerwise_sam(k, rho, normalize=True, selection=lsam.budget(0.1))`; check that it still helps |
# | a small, fixed surcharge, and memory to spare | `look_sam(every=5)`, or the same with `k` |
# | no second gradient at all | `momentum_sam` |
# | weights of very different size | `asam` |
# | the reference | `sam` |
#
# Then tune the radius, by factors of two, on validation data. Compare with SGD on the same seeds, at
# least five of them, and take a difference for real if it is several of its standard errors (the ± in
# the last column above).
