"""The vision transformer: its sizes, its forward pass, and training without its backbone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from vit_files import SMALL, features, npz_arrays

import lsam_jax as lsam
from lsam_jax.experiments.models import registry, vit
from lsam_jax.experiments.models.vit_weights import load_vit

IMAGES = np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)
NEW = {"hidden": 12, "num_classes": 5}


def shapes(model):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    """Weights from a file, and new layers whose biases are not zero."""
    file = tmp_path_factory.mktemp("vit") / "small.npz"
    np.savez(file, **npz_arrays())
    drawn = np.random.default_rng(2)
    new = {
        name: {
            "kernel": drawn.standard_normal((inputs, outputs)).astype(np.float32) / 4,
            "bias": drawn.standard_normal(outputs).astype(np.float32) / 4,
        }
        for name, inputs, outputs in (("hidden", 16, 12), ("head", 12, 5))
    }
    backbone = shapes(vit.ViT(**SMALL, **NEW))["params"]["backbone"]
    return {"backbone": load_vit(file, backbone), **new}


def expected_logits(params, images):
    hidden, head = (jax.tree.map(np.float64, params[name]) for name in ("hidden", "head"))
    y = features(npz_arrays(), images) @ hidden["kernel"] + hidden["bias"]
    return np.maximum(y, 0) @ head["kernel"] + head["bias"]


def test_parameter_counts_of_vit_b16():
    # torchvision documents 86,567,656 for its vit_b_16: with 769,000 in a head for 1000 classes.
    variables = shapes(vit.vit_b16())
    assert set(variables) == {"params"}
    params = variables["params"]
    count = partial(jax.tree.reduce, lambda total, x: total + x.size, initializer=0)
    assert count(params["backbone"]) == 85_798_656
    kernels = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(params["backbone"])
        if path[-1].key == "kernel"
    ]
    assert len(kernels) == 1 + 12 * 6
    trained = {name: value for name, value in params.items() if name not in vit.FROZEN}
    assert lsam.layer_names(trained) == ("head/kernel", "hidden/kernel")
    assert count(trained) == 768 * 768 + 768 + 768 * 100 + 100
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_features_are_those_of_the_published_layout(params, x64):
    sizes = {name: SMALL[name] for name in SMALL if name != "image_size"}
    backbone = vit.Backbone(**sizes, dtype=jnp.float64)
    result = jax.jit(backbone.apply)({"params": params["backbone"]}, np.float64(IMAGES))
    assert result.dtype == jnp.float64
    np.testing.assert_allclose(result, features(npz_arrays(), IMAGES), rtol=0, atol=1e-10)


def test_logits_are_two_dense_layers_on_the_features(params):
    apply = jax.jit(vit.ViT(**SMALL, **NEW).apply, static_argnames="train")
    logits = apply({"params": params}, IMAGES)
    np.testing.assert_allclose(logits, expected_logits(params, IMAGES), rtol=0, atol=2e-5)
    training = apply({"params": params}, IMAGES, train=True)  # needs no key
    np.testing.assert_array_equal(training, logits)


def test_images_of_another_size_are_scaled_bilinearly(params):
    small = IMAGES[:, :4, :4]
    # Each new pixel lies a quarter of an old one off its centre; past the edge the edge goes on.
    old = np.pad(np.eye(4), ((1, 1), (0, 0)), mode="edge")
    rows = [w * old[i] + (1 - w) * old[i + 1] for i in range(5) for w in (0.75, 0.25)][1:-1]
    larger = np.einsum("pi,qj,nijc->npqc", rows, rows, small)
    logits = jax.jit(vit.ViT(**SMALL, **NEW).apply)({"params": params}, small)
    np.testing.assert_allclose(logits, expected_logits(params, larger), rtol=0, atol=2e-5)


def test_computation_in_bfloat16_keeps_parameters_and_logits_in_float32(params):
    model = vit.ViT(**SMALL, **NEW, dtype=jnp.bfloat16)
    variables = shapes(model)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    apply = partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    logits, captured = jax.jit(apply)({"params": params}, IMAGES)
    assert logits.dtype == jnp.float32
    dtypes = jax.tree.map(lambda x: x.dtype, captured["intermediates"])
    assert set(jax.tree.leaves(dtypes["backbone"])) == {jnp.dtype("bfloat16")}
    difference = np.abs(logits - expected_logits(params, IMAGES)).max()
    assert 1e-4 < difference < 0.1


def test_pixels_become_signed():
    pixels = np.array([0, 51, 204, 255], np.uint8)
    signed = vit.to_signed(pixels)
    assert signed.dtype == jnp.float32
    np.testing.assert_allclose(signed, [-1.0, -0.6, 0.6, 1.0], rtol=0, atol=2e-7)
    with pytest.raises(TypeError, match=r"images have dtype float32; pass uint8"):
        vit.to_signed(np.zeros(3, np.float32))


def test_the_small_one_is_trained_whole_on_images_of_any_channels():
    model, images = vit.vit_tiny(num_classes=4, width=8, depth=2, heads=2), jnp.ones((3, 8, 8, 1))
    params = model.init(jax.random.key(0), images)["params"]
    assert model.apply({"params": params}, images).shape == (3, 4)
    assert params["backbone"]["positions"].shape == (1, 1 + 16, 8)
    assert params["backbone"]["block1"]["mlp1"]["kernel"].shape == (8, 32)
    trained, frozen = registry.preset("vit_tiny").split(params)
    assert trained == params and not frozen
    with pytest.raises(ValueError, match="width=7 must be a multiple of the 4 heads of vit_tiny"):
        jax.eval_shape(vit.vit_tiny(width=7).init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("options", "images", "error", "message"),
    [
        ({}, np.zeros((1, 8, 8, 3), np.uint8), TypeError, r"dtype uint8; pass to_signed\(images\)"),
        (
            {},
            np.zeros((1, 8, 8, 1), np.float32),
            ValueError,
            r"\(1, 8, 8, 1\); pass \[N, H, W, 3\]",
        ),
        ({}, np.zeros((8, 8, 3), np.float32), ValueError, r"\(8, 8, 3\); pass \[N, H, W, 3\]"),
        ({"image_size": 9}, IMAGES, ValueError, "image_size=9 must be a multiple of patch_size=4"),
        ({"heads": 3}, IMAGES, ValueError, "width=16 must be a multiple of heads=3"),
    ],
)
def test_what_does_not_fit_is_refused(options, images, error, message):
    with pytest.raises(error, match=message):
        vit.ViT(**{**SMALL, **options}).init(jax.random.key(0), images)


LABELS = np.array([0, 3, 4])
RHO = 0.1


def loss_fn(trained, backbone, images):
    logits = vit.ViT(**SMALL, **NEW).apply({"params": {"backbone": backbone, **trained}}, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    return losses.mean(), logits


def split(params):
    return {name: params[name] for name in ("hidden", "head")}, params["backbone"]


@pytest.fixture(scope="module")
def compiled(params):
    """The plain gradient and the layer-wise SAM step of the new layers."""
    trained, backbone = split(params)
    tx = lsam.layerwise_sam(k=1, rho=RHO)
    plain = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    step = jax.jit(lsam.value_and_grad(loss_fn, tx, has_aux=True))
    return (
        plain.lower(trained, backbone, IMAGES).compile(),
        step.lower(trained, tx.init(trained), backbone, IMAGES).compile(),
        tx.init(trained),
    )


def test_only_the_new_layers_are_trained(params, compiled):
    trained, backbone = split(params)
    plain, step, state = compiled
    (loss, logits), grads, state = step(trained, state, backbone, IMAGES)
    # All norms are zero at first, and the tie goes to the layer nearest the output.
    (clean, _), ascent = plain(trained, backbone, IMAGES)
    kernel = trained["head"]["kernel"] + RHO * ascent["head"]["kernel"]
    moved = {**trained, "head": {**trained["head"], "kernel": kernel}}
    descent = plain(moved, backbone, IMAGES)[1]
    np.testing.assert_allclose(loss, clean, rtol=1e-6)
    np.testing.assert_allclose(logits, expected_logits(params, IMAGES), rtol=0, atol=2e-5)
    assert jax.tree.structure(grads) == jax.tree.structure(trained)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), grads, descent)
    assert np.abs(descent["hidden"]["kernel"] - ascent["hidden"]["kernel"]).max() > 1e-4
    assert state.selected.sum() == 1
    norms = [np.linalg.norm(descent[name]["kernel"]) for name in ("head", "hidden")]
    state = step(trained, state, backbone, IMAGES)[2]
    np.testing.assert_array_equal(state.selected, np.arange(2) == np.argmax(norms))


def test_the_backbone_runs_once_in_a_step(params, compiled):
    forward = jax.jit(vit.ViT(**SMALL, **NEW).apply).lower({"params": params}, IMAGES).compile()
    once, plain, step = (f.cost_analysis()["flops"] for f in (forward, *compiled[:2]))
    assert plain < 1.1 * once  # nothing is propagated back into it
    assert step < 1.1 * plain
