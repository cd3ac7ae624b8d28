"""The batches of a run, each by its number: where a run stands is one integer.

Every epoch has a random generator of its own, so that any batch is found without drawing those
before it; the images are in memory already, and a batch is one NumPy gather. The orders are those
of Grain's ``MapDataset.range(...).seed(seed).random_map(permutation)``, which earlier versions
drew with, so that their runs go on as they began.
"""

import operator

import numpy as np
from numpy.random import Generator, Philox, SeedSequence

from lsam_jax.experiments.data.split import Split


class Batches:
    """Shuffled batches without end; every epoch has an order of its own.

    Batch number `step` belongs to epoch ``step // steps_per_epoch``. An image appears at most
    once in an epoch: what does not fill a batch is left out. That the arguments fit is checked
    where they come from, see `step.build`.

    Args:
        split: What to draw from.
        batch_size: Images in a batch, over all shards; at most those of the split.
        seed: Same seed, same batches, in every process.
        shard: Index and number of the shards, a divisor of `batch_size`. Each has the same share of
            every batch, and the shards one after the other are the whole batch.

    Attributes:
        steps_per_epoch: Full batches in the split.
    """

    def __init__(
        self, split: Split, batch_size: int, seed: int, shard: tuple[int, int] = (0, 1)
    ) -> None:
        index, shards = shard
        self.steps_per_epoch = len(split.labels) // batch_size
        self._images = np.asarray(split.images)
        self._labels = np.asarray(split.labels)
        self._batch_size = batch_size
        share = batch_size // shards
        self._shard = slice(index * share, (index + 1) * share)
        drawn = SeedSequence((seed, 1)).generate_state(1)  # 1: as Grain derives it
        self._key = SeedSequence(int(drawn[0])).generate_state(2, np.uint64)
        self._latest = (-1, np.arange(0))

    def __getitem__(self, step: int) -> Split:
        """Batch number `step`, from 0; steps in order are the quickest.

        Raises:
            TypeError: When `step` is no integer.
            ValueError: When it is negative.
        """
        if step < 0:
            raise ValueError(f"step={step} must be zero or above")
        epoch, position = divmod(operator.index(step), self.steps_per_epoch)
        order = self._order(epoch)[position * self._batch_size :][: self._batch_size]
        chosen = order[self._shard]
        return Split(self._images[chosen], self._labels[chosen])

    def _order(self, epoch: int) -> np.ndarray:
        known, order = self._latest
        if epoch != known:
            generator = Generator(Philox(key=self._key, counter=[0, 0, 0, epoch]))
            order = generator.permutation(len(self._labels))
            self._latest = (epoch, order)  # at once, for threads
        return order
