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
# # What is sharp, and where
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/03_what_is_sharp.ipynb)
#
# Layer-wise SAM rests on an observation: the layers of a network have very different gradients and
# very different loss landscapes. This notebook looks at both, in a small residual network that was
# trained on handwritten digits with SGD, SAM and layer-wise SAM.

# %%
import subprocess
import sys

SOURCE = "lsam-jax"  # or "git+https://github.com/OWNER/REPO"
if "google.colab" in sys.modules:  # it has all else, and its jax stays
    packages = [SOURCE, "importlib_resources"]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *packages], check=True)

# %%
import logging
import os

logging.getLogger("absl").setLevel("ERROR")  # Grain remarks on Colab's jaxlib when imported

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from lsam_jax.diagnostics.landscape import layer_landscape
from lsam_jax.experiments.data import datasets
from lsam_jax.experiments.models import registry
from lsam_jax.experiments.presets import preset
from lsam_jax.experiments.training import fit

SHORT = os.environ.get("LSAM_NOTEBOOK_SHORT") == "1"
EPOCHS, POINTS, IMAGES = (2, 3, 64) if SHORT else (20, 17, 256)
EPOCH_TICKS = np.arange(1, EPOCHS + 1) if SHORT else np.arange(5, EPOCHS + 1, 5)
METHODS = {"SGD": "sgd", "SAM": "sam", "layer-wise SAM": "layerwise_sam"}
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Train
#
# `fit` is the library's training loop; a preset is a recipe for all methods. The history has an entry
# for each epoch, with the gradient norm of each layer, in network order. These are norms of the plain
# training loss's gradient on the same images for every method, so they can be compared.

# %%
digits = datasets.digits()
results = {
    name: fit(preset("digits-resnet8").configure(method, epochs=EPOCHS), digits)
    for name, method in METHODS.items()
}
layers = results["SGD"].history.layers
for name, result in results.items():
    history = result.history
    print(
        f"{name:15} test accuracy {history.validation_accuracy[-1]:.1%}, "
        f"gradient norm {history.gradient_norm[-1]:.4f}, "
        f"layers perturbed {history.perturbed_layers[-1]:.0%}"
    )

# %% [markdown]
# One seed each: these numbers show that all have trained, and are no ranking.
#
# ## Norms
#
# A few layers have most of the gradient, and they are not the same ones from beginning to end. All fall
# when the learning rate is lowered, after two thirds of the epochs.

# %%
figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
norms = {name: np.array(result.history.layer_norms).T for name, result in results.items()}
scale = {"vmin": min(map(np.min, norms.values())), "vmax": max(map(np.max, norms.values()))}
for axes, (name, norm) in zip(panels, norms.items()):
    image = axes.imshow(
        norm,
        aspect="auto",
        cmap="cividis",
        norm=plt.matplotlib.colors.LogNorm(**scale),
        extent=(0.5, EPOCHS + 0.5, len(layers) - 0.5, -0.5),
    )
    axes.set(title=name, xlabel="epoch", xticks=EPOCH_TICKS)
short_names = [name.removesuffix("/kernel") for name in layers]
panels[0].set_yticks(range(len(layers)), short_names)
panels[0].set_ylabel("layer, from the input (top) to the output")
figure.colorbar(image, ax=panels, label="norm of the layer's gradient")
plt.show()

# %% [markdown]
# ## Selection
#
# Layer-wise SAM perturbs the k layers whose norm was largest in the step before, here two of them.
# The choice is made anew in every step, by the norms of the gradient that the step descends.

# %%
history = results["layer-wise SAM"].history
counts = np.diff(np.array(history.perturbations), axis=0, prepend=0)
share = 100 * counts.T / np.diff(history.step, prepend=0)
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
image = axes.imshow(
    share,
    aspect="auto",
    cmap="cividis",
    vmin=0,
    vmax=100,
    extent=(0.5, EPOCHS + 0.5, len(layers) - 0.5, -0.5),
)
axes.set_yticks(range(len(layers)), short_names)
axes.set(
    title="What layer-wise SAM (k=2) perturbed", xlabel="epoch", ylabel="layer", xticks=EPOCH_TICKS
)
figure.colorbar(image, label="share of the epoch's steps (%)")
plt.show()

# %% [markdown]
# ## Landscapes
#
# The paper's appendix A.2: two random orthogonal directions of norm 1 inside one layer, steps along
# both, and the training loss at each point of the grid, all other layers as they are. The same key
# gives all three networks the same directions. BatchNorm uses its running statistics.

# %%
network = registry.preset("resnet8")(num_classes=digits.num_classes)
images = digits.preprocess(digits.train.images[:IMAGES])
labels = digits.train.labels[:IMAGES]


def loss_fn(params, batch_stats):
    logits = network.apply({"params": params, "batch_stats": batch_stats}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


chosen = [layers[0], layers[len(layers) // 2], layers[-1]]
landscapes = {
    (name, layer): layer_landscape(
        loss_fn,
        result.state.params,
        result.state.batch_stats,
        layer=layer,
        key=jax.random.key(0),
        steps=np.linspace(-4, 4, POINTS),
    )
    for layer in chosen
    for name, result in results.items()
}

# %%
figure, panels = plt.subplots(
    3, 3, figsize=(9.5, 8.5), sharex=True, sharey=True, layout="constrained"
)
top = max(float(found.loss.max()) for found in landscapes.values())
low = min(float(found.loss.min()) for found in landscapes.values())
levels = np.geomspace(low, top, 13)
for row, layer in zip(panels, chosen):
    for axes, name in zip(row, METHODS):
        found = landscapes[name, layer]
        image = axes.contourf(
            found.steps,
            found.steps,
            found.loss,
            levels,
            cmap="cividis",
            norm=plt.matplotlib.colors.LogNorm(low, top),
        )
        axes.plot(0, 0, "+", color="white")
        axes.set_title(f"{name}: {layer.removesuffix('/kernel')}", fontsize=10)
        axes.set_aspect("equal")
figure.supxlabel("step along the second direction (norm of the change)")
figure.supylabel("step along the first direction (norm of the change)")
figure.suptitle("Training loss when one layer is moved; + is the trained network")
figure.colorbar(image, ax=panels, label="cross-entropy (nats)", format="%.3g")
plt.show()

# %% [markdown]
# How sharp is a layer? The mean rise of the loss over the grid is one number for each landscape. A
# plane is a small sample of a layer's directions, and one seed a small sample of networks: compare the
# layers, where differences are large, rather than the methods.

# %%
print(f"{'mean rise of the loss':22}" + "".join(f"{name:>16}" for name in METHODS))
middle = POINTS // 2
for layer in chosen:
    losses = [landscapes[name, layer].loss for name in METHODS]
    rise = [loss.mean() - loss[middle, middle] for loss in losses]
    print(f"{layer:22}" + "".join(f"{value:16.3f}" for value in rise))
