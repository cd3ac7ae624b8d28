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
# # Several devices
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/04_several_devices.ipynb)
#
# Data-parallel training: each device has its part of the batch. On a machine with several GPUs or
# TPU cores this notebook uses them; elsewhere it emulates eight devices on the CPU, which shows what
# is computed and not how fast. The emulation must be asked for before JAX is first used.

# %%
import subprocess
import sys

SOURCE = "lsam-jax"  # or "git+https://github.com/OWNER/REPO"
if "google.colab" in sys.modules:  # its jax and optax are recent enough, and stay
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE], check=True)

import jax

jax.config.update("jax_num_cpu_devices", 8)
devices = jax.devices() if len(jax.devices()) > 1 else jax.devices("cpu")
print(f"{len(devices)} devices: {devices[0].device_kind}")

# %%
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from sklearn.datasets import load_digits

import lsam_jax as lsam

SHORT = os.environ.get("LSAM_NOTEBOOK_SHORT") == "1"
STEPS = 10 if SHORT else 200
BATCH = 16 * len(devices)
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

digits = load_digits()
rng = np.random.default_rng(0)
order = rng.permutation(len(digits.target))
x, y = (digits.data[order] / 16 - 0.5).astype(np.float32), digits.target[order]


def batch_of(step):
    rows = np.arange(step * BATCH, (step + 1) * BATCH) % len(x)
    return x[rows], y[rows]


def init(key):
    keys, sizes = jax.random.split(key, 4), [64, 128, 128, 128, 10]
    return {
        f"dense{i}": {"kernel": jax.random.normal(k, (n, m)) / n**0.5, "bias": jnp.zeros(m)}
        for i, (k, n, m) in enumerate(zip(keys, sizes[:-1], sizes[1:]), start=1)
    }


def loss_fn(params, batch):
    x, labels = batch
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.gelu(x @ layer["kernel"] + layer["bias"])
    logits = x @ last["kernel"] + last["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# %% [markdown]
# ## One line: `lsam.data_parallel`
#
# The train step is the one for a single device. `lsam.data_parallel` stands where `jax.jit` stood: it
# lays the batch (the last argument) over the devices and puts all else on each of them.

# %%
optimizer = optax.sgd(0.1, momentum=0.9)


def train_step_with(sam, **options):
    def train_step(params, sam_state, opt_state, batch):
        value_and_grad = lsam.value_and_grad(loss_fn, sam, **options)
        loss, grads, sam_state = value_and_grad(params, sam_state, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), sam_state, opt_state, loss

    return train_step


sam = lsam.layerwise_sam(k=2, rho=0.1, alpha=0.8)
train_step = train_step_with(sam)
on_one = jax.jit(train_step)
on_all = lsam.data_parallel(train_step, devices=devices)

# %% [markdown]
# ## It is the same training
#
# Loss, gradients, the layers that are selected: all are those of the whole batch, to rounding. In
# float32 rounding grows with every step, as in any training, so the first steps are compared.


# %%
def difference(a, b):
    """Norm of a - b relative to that of a."""
    a, b = jax.device_get((a, b))
    return float(optax.tree.norm(optax.tree.sub(a, b)) / optax.tree.norm(a))


params = init(jax.random.key(0))
one = everywhere = (params, sam.init(params), optimizer.init(params))
for i in range(5):
    *one, _ = on_one(*one, batch_of(i))
    *everywhere, loss = on_all(*everywhere, batch_of(i))
    equal = np.array_equal(one[1].selected, everywhere[1].selected)
    gap = difference(one[0], everywhere[0])
    print(f"step {i + 1}: same layers {equal}, parameters differ by {gap:.0e} (relative)")
    assert equal and gap < 1e-4

# %% [markdown]
# The batch lies in parts, the parameters are whole on every device.

# %%
rows, _ = on_all.shard(batch_of(0))
print("batch     ", rows.shape, "on each device", rows.addressable_shards[0].data.shape)
kernel = everywhere[0]["dense1"]["kernel"]
print("parameters", kernel.shape, "on each device", kernel.addressable_shards[0].data.shape)

# %% [markdown]
# ## By hand: `shard_map` and `axis_name`
#
# In a step that is written for one device's part of the batch, tell the method the name of the axis.
# What comes back is averaged already. Averaging a SAM step by hand goes wrong easily, and in silence.
#
# `perturbation_sync` says whose gradient perturbs. "global": that of the whole batch, as on one
# device. "replica": each device perturbs by its own part's gradient, and sends nothing in the first
# pass. This is the SAM of most public code on several devices, and called m-sharpness, with m the rows
# of a device.

# %%
mesh = Mesh(np.array(devices), ("batch",))


def in_shards(sam):
    whole, rows = PartitionSpec(), PartitionSpec("batch")
    return jax.jit(
        jax.shard_map(
            train_step_with(sam),
            mesh=mesh,
            in_specs=(whole, whole, whole, rows),
            out_specs=whole,
        )
    )


def layerwise(**options):
    return lsam.layerwise_sam(k=2, rho=0.1, alpha=0.8, **options)


together = layerwise(axis_name="batch")
apart = layerwise(axis_name="batch", perturbation_sync="replica")

# %% [markdown]
# On one device, `m=` gives every m rows a perturbation of their own. With m the rows of one device,
# that is what "replica" does.

# %%
per_part = train_step_with(sam, m=BATCH // len(devices))
steps = {
    "one device": on_one,
    "data_parallel": on_all,
    'shard_map, "global"': in_shards(together),
    'shard_map, "replica"': in_shards(apart),
    f"one device, m={BATCH // len(devices)}": jax.jit(per_part),
}
after = {}
for name, step in steps.items():
    *state, _ = step(params, sam.init(params), optimizer.init(params), batch_of(0))
    *state, _ = step(*state, batch_of(1))
    after[name] = state[0]

names = list(steps)
print(f"{'after two steps, relative to':30}{'one device':>14}{names[-1]:>20}")
for name in names:
    gaps = [difference(after[other], after[name]) for other in ("one device", names[-1])]
    print(f"{name:30}{gaps[0]:14.0e}{gaps[1]:20.0e}")
assert difference(after["one device"], after['shard_map, "global"']) < 1e-5
assert difference(after[names[-1]], after['shard_map, "replica"']) < 1e-5
assert difference(after["one device"], after['shard_map, "replica"']) > 1e-5

# %% [markdown]
# Two groups that agree to rounding, and a difference between them that is real.
#
# ## Sharpness seen by parts
#
# The gradient of a small part is larger and noisier than that of the whole batch, so its perturbation
# goes further up. The state's sharpness (perturbed minus clean loss) shows it.


# %%
def sharpness(step):
    params = init(jax.random.key(0))
    state, found = (params, sam.init(params), optimizer.init(params)), []
    for i in range(STEPS):
        *state, _ = step(*state, batch_of(i))
        found.append(float(state[1].sharpness))
    return np.array(found)


figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
curves = {
    f"m={BATCH}, the whole batch (global)": (on_one, "#0072B2", "-"),
    f"m={BATCH // len(devices)}, a device's rows (replica)": (
        steps['shard_map, "replica"'],
        "#D55E00",
        "--",
    ),
}
for label, (step, colour, line) in curves.items():
    axes.plot(np.arange(STEPS) + 1, sharpness(step), line, color=colour, label=label)
axes.set(
    title="Sharpness during training",
    xlabel="step",
    ylabel="perturbed minus clean loss (nats)",
    yscale="log",
)
axes.legend()
plt.show()
