"""The same trajectories as code that others wrote, where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from textbook import named, relative_error
from training import EXACT

import lsam_jax as lsam

RHO, LR, STEPS = 0.05, 0.1, 50


@pytest.mark.core
@pytest.mark.usefixtures("x64")
def test_optax_contrib_sam():
    """Opaque mode: its adversarial optimizer is SGD of rate rho on the normalised gradient."""
    case = zoo.build("branches")
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    theirs = optax.contrib.sam(
        optax.sgd(LR, momentum=0.9), adversary, sync_period=2, opaque_mode=True
    )
    ours = optax.chain(lsam.sam(RHO), optax.sgd(LR, momentum=0.9))

    @jax.jit
    def step(both, states, batch):
        def grad_fn(params, i=0):
            return jax.grad(case.loss, has_aux=True)(params, batch)[0]

        found = [
            optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
            for optimizer, params, state in zip((theirs, ours), both, states)
        ]
        moved = [optax.apply_updates(params, updates) for params, (updates, _) in zip(both, found)]
        return moved, [state for _, state in found]

    both, states = [case.params] * 2, [theirs.init(case.params), ours.init(case.params)]
    for count in range(STEPS):
        both, states = step(both, states, case.batches[count % len(case.batches)])
    want, got = map(named, both)
    assert all(relative_error(got[n], want[n]) <= EXACT for n in want)
    start = named(case.params)
    assert relative_error(got["stem/w"], start["stem/w"]) > 0.1


def test_pytorch():
    """A textbook SAM on PyTorch's own gradients and its own SGD, in single precision."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=s).astype(np.float32) / 2 for s in ((5, 8), (8, 3)))
    batches = [
        (rng.normal(size=(16, 5)).astype(np.float32), rng.integers(0, 3, 16)) for _ in range(5)
    ]
    weights = [torch.tensor(w, requires_grad=True) for w in (first, second)]
    optimizer = torch.optim.SGD(weights, lr=LR, momentum=0.9)

    def torch_gradient(x, y):
        logits = torch.tanh(torch.tensor(x) @ weights[0]) @ weights[1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y))
        return torch.autograd.grad(loss, weights)

    def loss_fn(params, x, y):
        logits = jnp.tanh(x @ params[0]) @ params[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    tx, base = lsam.sam(RHO), optax.sgd(LR, momentum=0.9)
    both = jax.jit(lsam.value_and_grad(loss_fn, tx))
    params = [jnp.asarray(first), jnp.asarray(second)]
    sam_state, base_state = tx.init(params), base.init(params)
    for count in range(STEPS):
        x, y = batches[count % len(batches)]
        g = torch_gradient(x, y)
        norm = torch.sqrt(sum((d**2).sum() for d in g))
        with torch.no_grad():
            for w, d in zip(weights, g):
                w.add_(RHO * d / norm)
        h = torch_gradient(x, y)
        with torch.no_grad():
            for w, d in zip(weights, g):
                w.sub_(RHO * d / norm)
        for w, d in zip(weights, h):
            w.grad = d
        optimizer.step()
        _, direction, sam_state = both(params, sam_state, x, y)
        updates, base_state = base.update(direction, base_state, params)
        params = optax.apply_updates(params, updates)
    for got, want in zip(params, weights):
        assert np.allclose(got, want.detach().numpy(), rtol=1e-5, atol=1e-5)
