"""The presets are what papers and public code say, in the words of this test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from textbook import choose, named, norm, relative_error
from training import EXACT, textbook_gradient

import lsam_jax as lsam
from lsam_jax import presets

pytestmark = pytest.mark.usefixtures("x64")

RHO = 0.1


def perturbed(case, eps_of):
    """The gradient at w + eps, eps by path of weights and gradients."""
    params, batch = case.params, case.batches[0]
    gradient = textbook_gradient(case.loss)
    w, g = named(params), named(gradient(params, batch)[1])
    eps = eps_of(w, g)
    there = [jnp.asarray(w[n] + eps.get(n, 0)) for n in w]
    return g, named(gradient(jax.tree.unflatten(jax.tree.structure(params), there), batch)[1])


def kernels(w):
    return [n for n in w if w[n].ndim > 1]


def scaled(w, g, names, rho, of=None):
    size = norm(*[g[n] for n in of or names])
    return {n: rho * g[n] / size for n in names}


def adaptive(w, g, weights):
    T = {n: np.abs(w[n]) + 0.01 if n in weights else np.ones_like(w[n]) for n in w}
    size = norm(*[T[n] * g[n] for n in w])
    return {n: RHO * T[n] ** 2 * g[n] / size for n in w}


def last(case, w):
    """The two kernels nearest the output, which a first step perturbs."""
    return choose(dict.fromkeys(case.order, 0.0), 2, case.order)


CASES = {
    "layerwise_sam_paper": (
        lambda: presets.layerwise_sam_paper(2, RHO, 0.8),
        lambda c, w, g: {n: RHO * g[n] for n in last(c, w)},
        lambda c, w: dict.fromkeys(last(c, w), 0.8),
    ),
    "layerwise_sam_code": (
        lambda: presets.layerwise_sam_code(2, RHO, 0.8),
        lambda c, w, g: scaled(w, g, last(c, w), RHO),
        lambda c, w: dict.fromkeys(last(c, w), 0.8),
    ),
    "generalized_sam_code": (
        lambda: presets.generalized_sam_code(RHO, 0.8),
        lambda c, w, g: scaled(w, g, kernels(w), RHO),
        lambda c, w: dict.fromkeys(kernels(w), 0.8),
    ),
    "sam_composer": (
        lambda: presets.sam_composer(RHO),
        lambda c, w, g: scaled(w, g, list(w), RHO),
        lambda c, w: {},
    ),
    "layerwise_sam_recipe": (
        lambda: presets.layerwise_sam_recipe(2, RHO),
        lambda c, w, g: scaled(w, g, last(c, w), RHO),
        lambda c, w: {},
    ),
    "sam_foret": (
        lambda: presets.sam_foret(RHO),
        lambda c, w, g: scaled(w, g, list(w), RHO),
        lambda c, w: {},
    ),
    "asam_code": (
        lambda: presets.asam_code(RHO),
        lambda c, w, g: adaptive(w, g, [n for n in w if not n.endswith("/b")]),
        lambda c, w: {},
    ),
    "asam_kernels": (
        lambda: presets.asam_kernels(RHO),
        lambda c, w, g: adaptive(w, g, kernels(w)),
        lambda c, w: {},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model", ["branches", "shared"])
def test_first_step(name, model):
    """`shared` has a scale, which is neither a kernel nor a bias."""
    case, (make, eps, alphas) = zoo.build(model), CASES[name]
    w = named(case.params)
    g, h = perturbed(case, lambda w, g: eps(case, w, g))
    alpha = alphas(case, w)
    tx = make()
    step = jax.jit(lsam.value_and_grad(case.loss, tx, has_aux=True))
    _, direction, _ = step(case.params, tx.init(case.params), case.batches[0])
    for n, got in named(direction).items():
        a = alpha.get(n, 1.0)
        assert relative_error(got, (1 - a) * g[n] + a * h[n]) <= EXACT, n


def test_composers_practice():
    due = presets.sam_composer().method.cadence.due
    assert [n for n in range(25) if due(n)] == [0, 10, 20]
    w = jnp.asarray([3.0, 4.0])  # is the gradient, and the direction moves by the radius

    def radius(tx):
        direction = lsam.value_and_grad(lambda w: jnp.sum(w**2) / 2, tx)(w, tx.init(w))[1]
        return float(jnp.linalg.norm(direction - w))

    assert abs(radius(presets.sam_composer()) - 10 * radius(lsam.sam())) < 1e-5


def test_the_others_are_made_with_the_arguments_that_they_name():
    """Their methods are tested elsewhere; here, that two presets of one method differ."""
    params = {"w": jnp.ones((4, 4)), "v": jnp.ones((4, 4))}
    drawn, weights = presets.esam_code(gamma=1.0).method, presets.esam_paper(gamma=1.0).method
    assert drawn.selector.draw is not None
    assert weights.selector.draw is None
    chosen, norms, every = np.ones(2, bool), jnp.asarray([1.0, 3.0]), np.ones(2, bool)
    moved = []
    for make in (presets.sl_sam_code, presets.sl_sam_scale_free):
        tx = make(active=0.5)
        memory = tx.init(params).memory.selection
        found = [tx.method.selector.observe(memory, chosen, s * norms, every) for s in (1, 10)]
        moved.append(np.allclose(*(f.probability for f in found)))
    assert moved == [False, True]


@pytest.mark.parametrize(
    ("make", "share"), [(presets.noisy_labels, 0.4), (presets.clean_labels, 0.1)]
)
@pytest.mark.parametrize("method", [lsam.sam, lsam.asam])
def test_the_radius_of_a_regime_undoes_its_share(make, share, method):
    """Of w'w/2 where half of the way is done: the rise that the rule asks for, or its bound."""
    w = jnp.asarray([3.0, 4.0])
    tx = make(method)
    step = jax.jit(lsam.value_and_grad(lambda w: jnp.sum(w**2) / 2, tx))
    _, _, state = step(w, tx.init(w))
    for _ in range(150):
        loss, direction, state = step(w / 2, state)
    first, there = 12.5, float(jnp.sum(direction**2) / 2)  # the direction is the perturbed w
    want = min(share / (1 - share) * (first - there), 0.2 * first)
    moved = direction - w / 2
    assert abs(float(direction @ moved) - want) < 0.1 * want
    assert float(loss) == 3.125
