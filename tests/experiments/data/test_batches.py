"""The batches of a run: full, drawn without replacement, and found by their number alone."""

import itertools
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from lsam_jax.experiments.data.batches import Batches
from lsam_jax.experiments.data.datasets import Split


def numbered(count):
    return Split(np.arange(count, dtype=np.uint8)[:, None] + 100, np.arange(count, dtype=np.int32))


def epoch(batches, number):
    steps = range(batches.steps_per_epoch)
    return np.concatenate([batches[number * len(steps) + step].labels for step in steps])


def test_an_epoch_is_full_batches_of_different_images_with_their_labels():
    batches = Batches(numbered(70), 16, seed=0)
    assert batches.steps_per_epoch == 4
    for step in range(12):
        batch = batches[step]
        assert batch.labels.shape == (16,)
        assert batch.images.dtype == np.uint8
        assert batch.labels.dtype == np.int32
        np.testing.assert_array_equal(batch.images[:, 0], batch.labels + 100)
    for number in range(3):
        assert len(np.unique(epoch(batches, number))) == 64
    seen = np.concatenate([epoch(batches, number) for number in range(10)])
    np.testing.assert_array_equal(np.unique(seen), np.arange(70))  # none is left out for good
    np.testing.assert_array_equal(np.sort(Batches(numbered(5), 5, 0)[3].labels), np.arange(5))


@pytest.mark.parametrize(
    ("seed", "number", "order"),
    [
        (0, 0, [8, 2, 7, 9, 3, 4, 0, 5, 6, 1]),
        (0, 1, [6, 9, 1, 3, 0, 5, 2, 7, 8, 4]),
        (7, 10**12, [0, 5, 7, 8, 9, 3, 6, 4, 1, 2]),
    ],
)
def test_the_orders_are_those_of_runs_that_grain_drew(seed, number, order):
    assert epoch(Batches(numbered(10), 2, seed), number).tolist() == order


def test_no_two_epochs_have_one_order_whatever_the_seed():
    # Grain's shuffle seeds epoch e of seed s by s + e, so that runs would share epochs.
    orders = [
        tuple(epoch(Batches(numbered(64), 16, seed), number))
        for seed in range(4)
        for number in range(4)
    ]
    assert len(set(orders)) == 16
    agreement = [np.mean(np.equal(a, b)) for a, b in itertools.combinations(orders, 2)]
    assert np.mean(agreement) < 2 / 64  # 1 / 64 by chance


def test_every_image_is_as_likely_at_every_place_and_to_be_left_out():
    batches = Batches(numbered(5), 2, seed=3)
    epochs = 2000
    orders = np.stack([epoch(batches, number) for number in range(epochs)])
    counts = np.stack([np.bincount(place, minlength=5) for place in orders.T])
    np.testing.assert_allclose(counts, epochs / 5, atol=5 * (epochs * 0.2 * 0.8) ** 0.5)
    left_out = epochs - counts.sum(axis=0)
    np.testing.assert_allclose(left_out, epochs / 5, atol=5 * (epochs * 0.2 * 0.8) ** 0.5)


def test_a_batch_is_found_by_its_number_alone():
    split = numbered(70)
    in_order = Batches(split, 16, seed=1)
    expected = [in_order[step].labels for step in range(20)]
    resumed = Batches(split, 16, seed=1)
    for step in (13, 2, 19, 0, 12):
        np.testing.assert_array_equal(resumed[step].labels, expected[step])
    far = 10**15 + 1
    np.testing.assert_array_equal(resumed[far].labels, in_order[np.int64(far)].labels)


def test_another_process_draws_the_same():
    program = (
        "import numpy as np\n"
        "from lsam_jax.experiments.data.batches import Batches\n"
        "from lsam_jax.experiments.data.datasets import Split\n"
        "split = Split(np.zeros((70, 1), np.uint8), np.arange(70, dtype=np.int32))\n"
        "print(*Batches(split, 16, seed=5)[4321].labels)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    expected = Batches(numbered(70), 16, seed=5)[4321].labels
    assert [int(label) for label in run.stdout.split()] == expected.tolist()


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_shards_one_after_the_other_are_the_whole_batch(shards):
    split = numbered(70)
    whole = Batches(split, 16, seed=2)
    parts = [Batches(split, 16, seed=2, shard=(index, shards)) for index in range(shards)]
    for step in (0, 3, 4, 9):
        pieces = [part[step] for part in parts]
        assert {len(piece.labels) for piece in pieces} == {16 // shards}
        for joined, expected in zip(map(np.concatenate, zip(*pieces)), whole[step]):
            np.testing.assert_array_equal(joined, expected)
    assert {part.steps_per_epoch for part in parts} == {4}


def test_arrays_of_jax_are_taken_too():
    split = numbered(40)
    on_device = Split(jnp.asarray(split.images), jnp.asarray(split.labels))
    for a, b in zip(Batches(on_device, 8, seed=0)[3], Batches(split, 8, seed=0)[3]):
        assert isinstance(a, np.ndarray)
        np.testing.assert_array_equal(a, b)


def test_a_step_before_the_first_or_between_two_is_an_error():
    with pytest.raises(ValueError, match="step=-1 must be zero or above"):
        Batches(numbered(70), 16, seed=0)[-1]
    with pytest.raises(TypeError, match="float"):
        Batches(numbered(70), 16, seed=0)[1.5]
