"""Which samples of a batch are climbed: all in turn, and never in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samples import RHO, loss
from training import assert_same

import lsam_jax as lsam

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(("period", "part"), [(2, 1 / 8), (8, 1 / 8), (3, 3 / 8), (6, 1 / 4)])
def test_rotating_samples_come_in_turn_in_the_steps_that_perturb(period, part):
    """As without a cadence, whose steps all perturb."""
    x, w = jnp.arange(64), jnp.ones(1)

    def of(tx, counts):
        step = lsam.value_and_grad(
            lambda w, x: (w[0] * jnp.sum(x), jnp.zeros(64, bool).at[x].set(True)), tx, True,
            ascent_batch=part, ascent_samples="rotating", clean_aux=True,
        )  # fmt: skip
        at = jax.jit(lambda count: step(w, tx.init(w)._replace(count=count), x)[0][1])
        return [at(jnp.asarray(count, jnp.int32)).tolist() for count in counts]

    sometimes = lsam.with_parts(lsam.sam(RHO), when=lsam.every(period))
    found = of(sometimes, range(0, 8 * period, period))
    assert found == of(lsam.sam(RHO), range(8))
    assert np.any(found, 0).all()


def test_rotating_samples_with_promotion_forbidden():
    x, w, tx = jnp.arange(8.0), jnp.ones(1), lsam.sam(RHO)
    step = lsam.value_and_grad(
        lambda w, x: w[0] * jnp.sum(x), tx, ascent_batch=1 / 4, ascent_samples="rotating"
    )
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        strict = jax.jit(step)(w, tx.init(w), x)
    assert_same(strict, jax.jit(step)(w, tx.init(w), x), 0)


@pytest.mark.parametrize("tx", [lsam.sam(RHO), lsam.with_parts(lsam.sam(RHO), ascent=lsam.stale())])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ascent_samples": "nonsense"}, "ascent_samples='nonsense'"),
        ({"ascent_samples": jax.random.key(0), "m": 2}, "ascent_samples=Array"),
        ({"clean_aux": True}, "clean_aux=True"),
    ],
)
def test_what_only_a_part_of_the_batch_has_is_refused_without_one(tx, options, words):
    with pytest.raises(ValueError, match=f"(?s){words}.* pass ascent_batch"):
        lsam.value_and_grad(loss, tx, has_aux=True, **options)


def test_a_clean_aux_of_the_size_of_the_batch_does_not_go_with_a_cadence():
    """In the steps that do not perturb it is of the whole batch."""
    x, w = jnp.arange(8.0), jnp.ones(1)
    tx = lsam.with_parts(lsam.sam(RHO), when=lsam.every(2))

    def taken(aux_of, tx, **options):
        step = lsam.value_and_grad(
            lambda w, x: (w[0] * jnp.mean(x), aux_of(x)), tx, True, ascent_batch=1 / 4, **options
        )
        return step(w, tx.init(w), x)[0][1]

    with pytest.raises(ValueError, match=r"clean_aux=True.*size of the batch \(\(2,\) .*\(8,\)"):
        taken(lambda x: {"each": 2 * x}, tx, clean_aux=True)
    assert taken(jnp.mean, tx, clean_aux=True).shape == ()
    assert taken(lambda x: 2 * x, tx).shape == (8,)
    assert taken(lambda x: 2 * x, lsam.sam(RHO), clean_aux=True).shape == (2,)


@pytest.mark.parametrize("samples", [np.zeros(2, np.uint32), [0, 1], 3])
def test_samples_that_are_refused(samples):
    with pytest.raises(ValueError, match=r"ascent_samples must be .*; got ascent_samples="):
        lsam.value_and_grad(loss, lsam.sam(RHO), ascent_batch=1 / 4, ascent_samples=samples)
