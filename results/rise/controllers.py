"""The radius that sets itself: rho follows the rise of the loss that its perturbation makes.

Textbook code on scikit-learn's digits with noisy labels; prints one JSON line a run (accuracy on clean
test images, share of training labels fitted, the radius and the rise in each quarter of the run).

    python radius_by_rise.py NOISE SEEDS ASCENT/RADIUS ...
    python radius_by_rise.py 0.4 10,11 sgd sam:1/fixed=.4 sam:1/share=.4 sam:.125/share=.4 lsam:4:.125/share=.4 stale/share=.4

ASCENT   sam:Q      gradient of the first Q of the batch, all arrays
         lsam:K:Q   the same on the K kernels of largest norm
         stale      the direction of the step before
RADIUS   fixed=RHO | le=SIGMA (LE-SAM: sigma / norm of the ascent gradient)
         nats=TAU  | share=A (the part of what has been learnt that a perturbation may undo; at most CAP of the first loss)
Environment: ARCH=conv|mlp|vit, OPT=sgd|adam, LR, WD, EPOCHS, IMAGES, CAP.
"""
import json, os, sys

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np, optax
from sklearn.datasets import load_digits

setting = lambda name, default: type(default)(os.environ.get(name, default))
ARCH, OPT, LR, WD = setting("ARCH", "conv"), setting("OPT", "sgd"), setting("LR", 0.1), setting("WD", 5e-4)
EPOCHS, IMAGES, BATCH, CAP = setting("EPOCHS", 30), setting("IMAGES", 1200), 64, setting("CAP", 0.2)
SPEED, FIRST, LOWEST, HIGHEST = 0.05, 0.02, 1e-3, 10.0  # of the controller: log step, first radius, bounds


class ResNet8(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        norm = lambda h, n: nn.BatchNorm(use_running_average=not train, momentum=0.9, name=n)(h)
        conv = lambda f, s, n, k=3: nn.Conv(f, (k, k), (s, s), use_bias=False, name=n)
        x = nn.relu(norm(conv(16, 1, "a0stem")(x), "n_stem"))
        for i in range(3):
            f, s = 16 * 2**i, 1 if i == 0 else 2
            y = norm(conv(f, 1, f"b{i}2")(nn.relu(norm(conv(f, s, f"b{i}1")(x), f"n{i}1"))), f"n{i}2")
            x = x if x.shape == y.shape else norm(conv(f, s, f"b{i}s", 1)(x), f"n{i}s")
            x = nn.relu(x + y)
        return nn.Dense(10, name="zhead")(x.mean((1, 2)))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        for name in ("d0", "d1", "d2"):
            x = nn.relu(nn.Dense(256, name=name)(x))
        return nn.Dense(10, name="zhead")(x)


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        b, s = len(x), x.shape[1] // 2
        x = x.reshape(b, s, 2, s, 2, -1).transpose(0, 1, 3, 2, 4, 5).reshape(b, s * s, -1)
        x = nn.Dense(64, name="emb")(x) + self.param("pos", nn.initializers.normal(0.02), (1, s * s, 64))
        for _ in range(3):
            x = x + nn.MultiHeadDotProductAttention(4)(h := nn.LayerNorm()(x), h)
            x = x + nn.Dense(64)(nn.gelu(nn.Dense(256)(nn.LayerNorm()(x))))
        return nn.Dense(10, name="zhead")(nn.LayerNorm()(x).mean(1))


NET = {"conv": ResNet8, "mlp": MLP, "vit": ViT}[ARCH]()
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.images))
images, labels = (digits.images / 16.0).astype(np.float32)[order, ..., None], digits.target[order]
X, Y, XT, YT = images[:min(IMAGES,960)], labels[:min(IMAGES,960)], images[960:1200], labels[960:1200]


def loss(params, stats, x, y):
    variables = {"params": params, **({"batch_stats": stats} if stats else {})}
    logits, new = NET.apply(variables, x, True, mutable=["batch_stats"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new.get("batch_stats", {})


gradient = jax.value_and_grad(loss, has_aux=True)
length = lambda tree: optax.global_norm(tree) + 1e-12
dot = lambda a, b: sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.vdot(u, v), a, b)))
leaf_norms = lambda tree: jnp.stack([jnp.linalg.norm(u) if u.ndim > 1 else -1.0 for u in jax.tree.leaves(tree)])


def ascent_direction(ascent, params, stats, memory, x, y):
    name, *numbers = ascent.split(":")
    if name == "stale":
        return memory["descent"]
    n = max(1, int(float(numbers[-1]) * len(x)))
    _, g = gradient(params, stats, x[:n], y[:n])
    if name == "sam":
        return g
    chosen = jnp.zeros(len(memory["norms"])).at[jnp.argsort(-memory["norms"])[: int(numbers[0])]].set(1)
    return jax.tree.unflatten(jax.tree.structure(g), [c * u for c, u in zip(chosen, jax.tree.leaves(g), strict=True)])



VARIANTS = {  # gain, clip, first, early, guard, relative bound, sign
 "V0": (0, .05, .02, 0, 0, 1e9, 1),
 "V1": (.1, .05, .02, 0, 0, 1e9, 0),
 "V2": (.2, .25, .1, 0, 0, 1e9, 0),
 "V3": (.2, .25, .1, 1, 0, 1e9, 0),
 "V4": (.2, .25, .1, 1, 1, .5, 0),
 "V5": (.1, .1, .1, 1, 1, .5, 0),
}
def next_radius(rule, number, memory, loss_perturbed, rise, weights, v):
    gain, clip, first_rho, early, guard, bound, sign = v
    t = memory["step"].astype(jnp.float32)
    first = memory["step"] == 0
    mean = lambda old, new, keep: jnp.where(first, new, keep * old + (1 - keep) * new)
    start = jnp.where(first, loss_perturbed, memory["start"])
    keep = jnp.where(early > 0, jnp.minimum(.95, t / (t + 4)), .95)
    perturbed = mean(memory["perturbed"], loss_perturbed, keep)
    smooth = mean(memory["rise"], rise, 0.8)
    left = jnp.maximum(start - perturbed, 0.0)
    target = number if rule == "nats" else jnp.minimum(number / (1 - number) * left, CAP * start)
    error = jnp.log(jnp.maximum(target, 1e-9) / jnp.maximum(smooth, 1e-9))
    x = jnp.log(memory["rho"])
    m = lambda k, new: jnp.where(memory["step"] <= 1, new, .95 * memory[k] + .05 * new)
    mx, mr = m("mx", x), m("mr", rise)
    vxx = .95 * memory["vxx"] + .05 * (x - mx) ** 2
    vxr = .95 * memory["vxr"] + .05 * (x - mx) * (rise - mr)
    flat = (guard > 0) & (vxx > .01) & (mr > 0) & (vxr < .1 * mr * vxx)
    error = jnp.where(flat, -jnp.abs(error), error)
    step = jnp.where(sign > 0, clip * jnp.sign(target - smooth), jnp.clip(gain * error, -clip, clip))
    step = jnp.where(target <= 0, -clip, step)
    high = jnp.minimum(HIGHEST, bound * weights)
    rho = jnp.clip(jnp.where(first, first_rho, memory["rho"] * jnp.exp(step)), LOWEST, high)
    return dict(start=start, perturbed=perturbed, rise=smooth, rho=rho if rule in ("nats", "share") else memory["rho"], mx=mx, mr=mr, vxx=vxx, vxr=vxr, flat=flat.astype(jnp.float32))


def descent_direction(method, params, stats, memory, x, y, v):
    if method == "sgd":
        (_, stats), h = gradient(params, stats, x, y)
        return h, stats, memory, jnp.zeros(3)
    ascent, _, radius = method.partition("/")
    rule, _, number = radius.partition("=")
    number = float(number)
    d = ascent_direction(ascent, params, stats, memory, x, y)
    rho = {"fixed": number, "le": jnp.minimum(number / length(d), 5.0)}.get(rule, memory["rho"])
    rho = jnp.where(memory["step"] == 0, 0.0, rho)
    eps = jax.tree.map(lambda u: rho * u / length(d), d)
    (value, stats), h = gradient(jax.tree.map(jnp.add, params, eps), stats, x, y)
    rise = dot(h, eps)
    memory = dict(memory, descent=h, norms=leaf_norms(h), **next_radius(rule, number, memory, value, rise, jnp.sqrt(sum(jnp.sum(jnp.where(jnp.any(u != 0), jnp.square(p), 0)) for u, p in zip(jax.tree.leaves(d), jax.tree.leaves(params)))), v))
    return h, stats, dict(memory, step=memory["step"] + 1), jnp.stack([jnp.asarray(rho, jnp.float32), rise, memory["flat"]])


STEPS = {}

def run(method, noise, seed, variant):
    rng = np.random.default_rng(seed)
    y = Y.copy()
    flipped = rng.random(len(y)) < noise
    y[flipped] = rng.integers(0, 10, flipped.sum())
    variables = NET.init(jax.random.key(seed), X[:1], False)
    params, stats = variables["params"], variables.get("batch_stats", {})
    steps = len(X) // BATCH
    rate = optax.cosine_decay_schedule(LR, steps * EPOCHS)
    optimizer = (
        optax.adamw(rate, weight_decay=WD)
        if OPT == "adam"
        else optax.chain(optax.add_decayed_weights(WD), optax.sgd(rate, momentum=0.9))
    )
    zeros = dict.fromkeys(("start", "perturbed", "rise", "mx", "mr", "vxx", "vxr", "flat"), jnp.float32(0))
    memory = dict(zeros, rho=jnp.float32(FIRST), step=jnp.int32(0), descent=jax.tree.map(jnp.zeros_like, params))
    memory["norms"] = jnp.where(leaf_norms(params) < 0, -1.0, 0.0)

    @jax.jit
    def step(params, stats, state, memory, x, y, v):
        h, stats, memory, seen = descent_direction(method, params, stats, memory, x, y, v)
        updates, state = optimizer.update(h, state, params)
        return optax.apply_updates(params, updates), stats, state, memory, seen

    step = STEPS.setdefault(method, step)
    v = tuple(map(jnp.float32, VARIANTS[variant]))
    state, seen = optimizer.init(params), []
    for _ in range(EPOCHS):
        order = rng.permutation(len(X))
        for i in range(steps):
            b = order[i * BATCH : (i + 1) * BATCH]
            params, stats, state, memory, row = step(params, stats, state, memory, X[b], y[b], v)
            seen.append(row)
    predict = jax.jit(lambda x: NET.apply({"params": params, **({"batch_stats": stats} if stats else {})}, x, False).argmax(1))
    quarters = np.array_split(np.asarray(seen), 4)
    return dict(
        arch=ARCH, opt=OPT, noise=noise, images=len(X), method=method, variant=variant, seed=seed,
        accuracy=round(100 * float((predict(XT) == YT).mean()), 2), fitted=round(100 * float((predict(X) == y).mean()), 1),
        radius=[round(float(q[:, 0].mean()), 3) for q in quarters], rise=[round(float(q[:, 1].mean()), 3) for q in quarters], flat=[round(float(q[:, 2].mean()), 2) for q in quarters],
    )


if __name__ == "__main__":
    for method in sys.argv[4:]:
        for seed in sys.argv[2].split(","):
            for variant in (sys.argv[3].split(",") if "share" in method or "nats" in method else ["-"]):
                VARIANTS.setdefault("-", VARIANTS["V0"])
                print(json.dumps(run(method, float(sys.argv[1]), int(seed), variant)), flush=True)
