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
# # Quickstart
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/01_quickstart.ipynb)
#
# Sharpness-aware minimization (SAM) takes two gradients a step. Layer-wise SAM perturbs only the
# layers with the largest gradient norm, and `lsam_jax` then computes nothing twice. Here a network
# learns handwritten digits with SGD, SAM and layer-wise SAM; one line of the train step differs.

# %%
import subprocess
import sys

SOURCE = "lsam-jax"  # or "git+https://github.com/OWNER/REPO"
if "google.colab" in sys.modules:  # its jax, flax and optax are recent enough, and stay
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE], check=True)

# %%
import functools
import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import lsam_jax as lsam

SHORT = os.environ.get("LSAM_NOTEBOOK_SHORT") == "1"
EPOCHS, SEEDS, ROUNDS = (6, 1, 20) if SHORT else (40, 5, 200)
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]  # told apart by the colour-blind
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Data and network
#
# Scikit-learn's 1797 digits of 8x8 pixels, half of them held out. The network is a plain pytree of
# parameters and a function, a residual perceptron of six dense layers; anything from Flax, Haiku or
# Equinox works as well.

# %%
digits = load_digits()
x, x_test, y, y_test = train_test_split(
    (digits.data / 16 - 0.5).astype(np.float32), digits.target, test_size=0.5, random_state=0
)
WIDTH, DEPTH, BATCH = 256, 6, 128


def init(key):
    sizes = [64, *[WIDTH] * (DEPTH - 1), 10]
    keys = jax.random.split(key, DEPTH)
    return {
        f"dense{i}": {
            "kernel": jax.random.normal(k, (n_in, n_out)) * (2 / n_in) ** 0.5 / 2,
            "bias": jnp.zeros(n_out),
        }
        for i, (k, n_in, n_out) in enumerate(zip(keys, sizes[:-1], sizes[1:]), start=1)
    }


def network(params, x):
    first, *middle, last = params.values()
    x = jax.nn.relu(x @ first["kernel"] + first["bias"])
    for layer in middle:
        x = x + jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def loss_fn(params, batch):
    images, labels = batch
    logits = network(params, images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, jnp.mean(logits.argmax(-1) == labels)


# %% [markdown]
# ## The one-line change
#
# This is a usual train step.

# %%
optimizer = optax.sgd(0.05, momentum=0.9)


@jax.jit
def sgd_step(params, opt_state, batch):
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, _), grads = value_and_grad(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


# %% [markdown]
# And this is one with SAM: `lsam.value_and_grad` in place of `jax.value_and_grad`. The method has a
# state (the norms of the layers' gradients), which goes in and comes out. The last of the methods may
# choose only among layers near the output, so that no step costs more than 1.35 plain gradients.


# %%
@functools.partial(jax.jit, static_argnums=0)
def sam_step(method, params, sam_state, opt_state, batch):
    value_and_grad = lsam.value_and_grad(loss_fn, method, has_aux=True)
    (loss, _), grads, sam_state = value_and_grad(params, sam_state, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), sam_state, opt_state, loss


METHODS = {
    "SGD": None,
    "SAM": lsam.sam(rho=0.05),
    "layer-wise SAM": lsam.layerwise_sam(k=2, rho=0.1, alpha=0.8),
    "within a budget": lsam.layerwise_sam(k=2, rho=0.1, alpha=0.8, selection=lsam.budget(0.35)),
}

# %% [markdown]
# ## Train


# %%
def batches(seed):
    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        yield [(x[i], y[i]) for i in np.split(order[: len(x) // BATCH * BATCH], len(x) // BATCH)]


@jax.jit
def test_accuracy(params):
    return jnp.mean(network(params, x_test).argmax(-1) == y_test)


def train(method, seed):
    """What a run was like, with its last state after each epoch."""
    params = init(jax.random.key(seed))
    opt_state = optimizer.init(params)
    sam_state = None if method is None else method.init(params)
    run = {"loss": [], "selected": [], "accuracy": [], "states": []}
    for epoch in batches(seed):
        for batch in epoch:
            if method is None:
                params, opt_state, loss = sgd_step(params, opt_state, batch)
            else:
                params, sam_state, opt_state, loss = sam_step(
                    method, params, sam_state, opt_state, batch
                )
                run["selected"].append(sam_state.selected)
            run["loss"].append(loss)
        run["accuracy"].append(100 * test_accuracy(params))
        run["states"].append((params, sam_state, opt_state))
    return {**run, **{name: np.array(run[name]) for name in ("loss", "selected", "accuracy")}}


runs = {name: [train(method, seed) for seed in range(SEEDS)] for name, method in METHODS.items()}

# %% [markdown]
# ## What a step costs
#
# Counted: floating-point operations of a step relative to a plain gradient, the mean over all steps,
# from the layers that each step perturbed (`lsam.inspect`). Measured: a step's time relative to
# SGD's. The three steps take turns, so that a slow moment of the machine meets all of them, and
# start from states of all over the runs; the cost is the median over the rounds.

# %%
batch = next(batches(0))[0]
params = init(jax.random.key(0))
inspection = lsam.inspect(loss_fn, params, batch, k=2)
names = np.array(lsam.layer_names(params))
LAYERWISE = ("layer-wise SAM", "within a budget")
counted = {"SGD": 1.0, "SAM": inspection.cost(names)}
for name in LAYERWISE:
    steps = np.concatenate([run["selected"] for run in runs[name]])
    counted[name] = np.mean([inspection.cost(names[chosen]) for chosen in steps])

seconds = {name: [] for name in METHODS}
for turn in range(ROUNDS):
    for name, method in METHODS.items():
        params, sam_state, opt_state = runs[name][0]["states"][turn % EPOCHS]
        start = time.perf_counter()
        if method is None:
            out = sgd_step(params, opt_state, batch)
        else:
            out = sam_step(method, params, sam_state, opt_state, batch)
        jax.block_until_ready(out)
        seconds[name].append(time.perf_counter() - start)
measured = {name: np.median(np.divide(seconds[name], seconds["SGD"])) for name in METHODS}

print(f"{'':15} {'test accuracy (%)':>18} {'cost, counted':>14} {'measured':>9}")
for name in METHODS:
    last = np.array([run["accuracy"][-1] for run in runs[name]])
    spread = last.std(ddof=1) if SEEDS > 1 else 0  # of the sample
    accuracy = f"{last.mean():.2f} ±{spread:.2f}"
    print(f"{name:15} {accuracy:>18} {counted[name]:14.2f} {measured[name]:9.2f}")

# %% [markdown]
# ±: sample standard deviation over the seeds. The accuracies are within it: digits are too easy to
# tell the methods apart.
# What can be seen is that all of them train, and what they cost. In a network as small as this one,
# starting an operation takes longer than much of its arithmetic, which is why measured and counted
# cost differ.
#
# ## Pictures

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name, colour, line in zip(METHODS, COLOURS, ("-", "--", "-.", ":")):
    loss = np.mean([run["loss"] for run in runs[name]], axis=0).reshape(EPOCHS, -1).mean(1)
    error = np.array([100 - run["accuracy"] for run in runs[name]])
    style = {"color": colour, "linestyle": line, "label": name}
    epochs = np.arange(1, EPOCHS + 1)
    left.plot(epochs, loss, **style)
    right.plot(epochs, error.mean(0), **style)
    right.fill_between(epochs, error.min(0), error.max(0), color=colour, alpha=0.15, lw=0)
left.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log")
right.set(title="Test error", xlabel="epoch", ylabel="wrong of the test images (%)", ylim=(0, 20))
right.legend(title=f"mean and range of {SEEDS} seed{'s' * (SEEDS > 1)}")
plt.show()

# %% [markdown]
# Which layers were perturbed? Norms, and so the choice, change during training, while the compiled
# program stays the same. The first layers are often among those with the largest norm, and then there
# is little in front of them to save; a budget leaves them out.

# %%
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, colour, offset in zip(LAYERWISE, COLOURS[2:], (-0.2, 0.2)):
    share = np.array([100 * run["selected"].mean(0) for run in runs[name]])
    mean = share.mean(0)
    axes.bar(
        np.arange(DEPTH) + offset,
        mean,
        0.4,
        yerr=[mean - share.min(0), share.max(0) - mean],
        capsize=3,
        color=colour,
        label=name,
    )
axes.set_xticks(range(DEPTH), [name.removesuffix("/kernel") for name in names])
axes.set(
    title=f"Layers perturbed in {EPOCHS * (len(x) // BATCH)} steps, k=2",
    xlabel="layer, from the input to the output",
    ylabel="share of the steps (%)",
    ylim=(0, 105),
)
axes.legend(title=f"mean and range of {SEEDS} seed{'s' * (SEEDS > 1)}")
plt.show()

# %% [markdown]
# What it costs to perturb a layer is known before anything runs: all in front of the first perturbed
# layer is computed once. `cost of a step` is that of a step which perturbs this layer first.

# %%
print(inspection)
