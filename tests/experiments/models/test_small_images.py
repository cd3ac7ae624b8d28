"""Convolutions to fewer pixels than their kernel has."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsam_jax.experiments.models import resnet
from lsam_jax.experiments.models.small_images import convolve

CASES = [  # size of the image, of the kernel, strides, padding; whether it is a product
    ((2, 2), (3, 3), (1, 1), "SAME", True),
    ((1, 1), (3, 3), (1, 1), "SAME", True),
    ((1, 2), (3, 3), (1, 1), "SAME", True),
    ((3, 2), (5, 3), (1, 1), "SAME", True),
    ((4, 4), (3, 3), (2, 2), "SAME", True),
    ((5, 4), (3, 4), (2, 3), "SAME", True),
    ((4, 5), (3, 3), (1, 2), "VALID", True),
    ((3, 2), (3, 4), (2, 1), [(2, 1), (0, 3)], False),
    ((3, 3), (3, 3), (1, 1), "SAME", False),
    ((8, 8), (3, 3), (2, 2), "SAME", False),
    ((2, 2), (1, 1), (2, 2), "SAME", False),
]


@pytest.mark.parametrize(("size", "taps", "strides", "padding", "is_product"), CASES)
def test_it_is_the_convolution_and_so_are_its_gradients(size, taps, strides, padding, is_product):
    with jax.enable_x64(True):
        draws = np.random.default_rng(0)
        images, kernel = (jnp.asarray(draws.normal(size=(*n, 3))) for n in ((4, *size), (5, *taps)))
        kernel = kernel.transpose(1, 2, 3, 0)

        def layer(images, kernel, **options):
            conv = nn.Conv(5, taps, strides, padding, use_bias=False, **options)
            return conv.apply({"params": {"kernel": kernel}}, images)

        def small(images, kernel):
            return layer(images, kernel, conv_general_dilated=convolve)

        @functools.partial(jax.jit, static_argnums=0)
        def both(fun, cotangent):
            out, back = jax.vjp(fun, images, kernel)
            return out, back(cotangent)

        shape = jax.eval_shape(layer, images, kernel).shape
        cotangent = jnp.asarray(draws.normal(size=shape))
        (out, gradients), (expected, expected_gradients) = (
            both(fun, cotangent) for fun in (small, layer)
        )
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13)
        for one, other in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
        convolved = "conv_general_dilated" in str(jax.make_jaxpr(small)(images, kernel))
        assert convolved is not is_product


def test_xla_swaps_no_kernel_and_image_of_the_small_network():
    """A convolution whose operands were swapped has a reversed window."""
    model = resnet.resnet8(width=4)
    images = jnp.ones((4, 8, 8, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, variables, images):
        everything = {**variables, "params": params}
        return model.apply(everything, images, train=True, mutable=["batch_stats"])[0].sum()

    compiled = jax.jit(jax.grad(loss)).lower(variables["params"], variables, images).compile()
    convolutions = [line for line in compiled.as_text().splitlines() if " convolution(" in line]
    assert convolutions
    assert not [line for line in convolutions if "rhs_reversal" in line]
