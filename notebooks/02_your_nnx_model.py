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
# # Your own Flax NNX model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/02_your_nnx_model.ipynb)
#
# A convolutional network with BatchNorm and dropout, trained with layer-wise SAM. The second pass
# must see the same dropout masks as the first one, and must not get into the running statistics:
# `lsam_jax.integrations.nnx` takes care of both.

# %%
import subprocess
import sys

SOURCE = "lsam-jax"  # or "git+https://github.com/OWNER/REPO"
if "google.colab" in sys.modules:  # its jax, flax and optax are recent enough, and stay
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE], check=True)

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import lsam_jax as lsam
from lsam_jax.integrations import nnx as lsam_nnx

SHORT = os.environ.get("LSAM_NOTEBOOK_SHORT") == "1"
EPOCHS, BATCH = (2 if SHORT else 15), 128
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

digits = load_digits()
x, x_test, y, y_test = train_test_split(
    (digits.images[..., None] / 16 - 0.5).astype(np.float32),
    digits.target,
    test_size=0.5,
    random_state=0,
)

# %% [markdown]
# ## The model
#
# Nothing in it knows of SAM.


# %%
class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(16, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.norm2 = nnx.BatchNorm(32, rngs=rngs)
        self.dense = nnx.Linear(4 * 4 * 32, 64, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(self.norm2(self.conv2(x)))
        x = nnx.relu(self.dense(x.reshape(len(x), -1)))
        return self.head(self.dropout(x))


def loss_fn(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


# %% [markdown]
# ## The one-line change
#
# `lsam_nnx.value_and_grad(loss_fn, sam)` in place of `nnx.value_and_grad(loss_fn)`, and a state that
# goes in and comes out.

# %%
sam = lsam.layerwise_sam(k=2, rho=0.1, alpha=0.8)


@nnx.jit
def train_step(model, optimizer, sam_state, x, y):
    value_and_grad = lsam_nnx.value_and_grad(loss_fn, sam)  # was nnx.value_and_grad(loss_fn)
    loss, grads, sam_state = value_and_grad(model, sam_state, x, y)
    optimizer.update(model, grads)
    return loss, sam_state


@nnx.jit
def accuracy(model, x, y):
    return jnp.mean(model(x).argmax(-1) == y)


# %%
model = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)
sam_state = sam.init(nnx.state(model, nnx.Param))
names = lsam.layer_names(nnx.state(model, nnx.Param))

rng = np.random.default_rng(0)
losses, accuracies, perturbations = [], [], []
for _ in range(EPOCHS):
    model.train()
    order = rng.permutation(len(x))
    for i in np.split(order[: len(x) // BATCH * BATCH], len(x) // BATCH):
        loss, sam_state = train_step(model, optimizer, sam_state, x[i], y[i])
        losses.append(loss)
        perturbations.append(sam_state.selected)
    model.eval()
    accuracies.append(accuracy(model, x_test, y_test))
print(f"test accuracy {accuracies[-1]:.1%} after {EPOCHS} epochs")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(np.arange(len(losses)) + 1, losses, color="#0072B2")
left.set(title="Training loss", xlabel="step", ylabel="cross-entropy (nats)", yscale="log")
NETWORK_ORDER = ["conv1/kernel", "conv2/kernel", "dense/kernel", "head/kernel"]
index = [names.index(name) for name in NETWORK_ORDER]
right.imshow(
    np.array(perturbations).T[index],
    aspect="auto",
    cmap="Greys",
    interpolation="nearest",
    extent=(0.5, len(losses) + 0.5, len(index) - 0.5, -0.5),
)
right.set_yticks(range(len(index)), [name.removesuffix("/kernel") for name in NETWORK_ORDER])
right.set(title="Layers that were perturbed (black), k=2", xlabel="step", ylabel="layer")
plt.show()

# %% [markdown]
# ## Only the clean pass is remembered
#
# Two copies of the trained model take a step on the same batch, one with a plain gradient and one
# with SAM. Loss and BatchNorm's running statistics are equal afterwards, as are the counters of the
# dropout's random stream; the gradients differ, which is the point.

# %%
model.train()
plain, sharp = nnx.clone(model), nnx.clone(model)
batch = (x[:BATCH], y[:BATCH])
plain_loss, plain_grads = nnx.jit(nnx.value_and_grad(loss_fn))(plain, *batch)
sharp_loss, sharp_grads, _ = nnx.jit(lsam_nnx.value_and_grad(loss_fn, sam))(
    sharp, sam_state, *batch
)


def difference(a, b):
    """Norm of a - b relative to that of a."""
    return optax.tree.norm(jax.tree.map(jnp.subtract, a, b)) / optax.tree.norm(a)


def arrays(model, kind):
    return nnx.to_pure_dict(nnx.state(model, kind))


statistics = difference(arrays(plain, nnx.BatchStat), arrays(sharp, nnx.BatchStat))
gradients = difference(nnx.to_pure_dict(plain_grads), nnx.to_pure_dict(sharp_grads))
counters = [int(m.dropout.rngs.count[...]) for m in (plain, sharp)]
print(f"loss                {plain_loss:.6f} and {sharp_loss:.6f}")
print(f"running statistics  relative difference {statistics:.0e}")
print(f"dropout's counter   {counters[0]} and {counters[1]}")
print(f"gradients           relative difference {gradients:.2f}")
assert statistics < 1e-5 and counters[0] == counters[1] and gradients > 1e-3

# %% [markdown]
# ## As one member of the optimizer's chain
#
# If the training loop is not yours, the method can go into the optimizer. `make_value_fn` makes the
# loss a function of the parameters; take it before the model runs on the batch, and the dropout masks
# are those of that run.


# %%
@nnx.jit
def chained_step(model, optimizer, x, y):
    value_fn = lsam_nnx.make_value_fn(model, loss_fn, x, y)
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    optimizer.update(model, grads, value_fn=value_fn)
    return loss


def start(tx):
    model = Net(nnx.Rngs(1))
    model.train()
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


base = optax.sgd(0.05, momentum=0.9)
one, other = start(base), start(optax.chain(sam, base))
train_step(*one, sam.init(nnx.state(one[0], nnx.Param)), *batch)
chained_step(*other, *batch)
step = difference(arrays(one[0], nnx.Param), arrays(other[0], nnx.Param))
print(f"parameters after a step of either form: relative difference {step:.0e}")
assert step < 1e-5
