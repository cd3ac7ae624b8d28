"""Where the time of an epoch goes, by a clock that the test turns."""

import pytest

from lsam_jax.experiments.training.epoch_timer import EpochClock


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def clock(now):
    return EpochClock(clock=lambda: now[0])


def an_epoch(clock, now, host=1.0, device=3.0, steps=2, evaluation=5.0):
    with clock.training():
        for _ in range(steps):
            now[0] += host
            with clock.waiting():
                now[0] += device
    now[0] += 1000.0  # neither
    with clock.evaluation():
        now[0] += evaluation


def test_the_parts_of_an_epoch(clock, now):
    an_epoch(clock, now)
    assert clock.read(3, images=64) == {
        "epoch": 3,
        "seconds": 8.0,
        "images_per_second": 8.0,
        "host_share": 0.25,
        "evaluation_seconds": 5.0,
    }


def test_each_epoch_starts_at_zero(clock, now):
    an_epoch(clock, now, host=7.0, evaluation=9.0)
    clock.read(1, images=64)
    an_epoch(clock, now, host=3.0, device=1.0, steps=1)
    second = clock.read(2, images=8)
    assert (second["seconds"], second["host_share"], second["evaluation_seconds"]) == (4, 0.75, 5)
    assert second["images_per_second"] == 2.0


def test_parts_that_are_measured_in_pieces_add_up(clock, now):
    for _ in range(3):
        an_epoch(clock, now)
    assert clock.read(1, images=1)["seconds"] == 24.0


def test_an_epoch_of_no_time_has_no_rates(clock):
    timing = clock.read(1, images=0)
    assert timing["seconds"] == 0.0
    assert timing["images_per_second"] is None
    assert timing["host_share"] is None


def test_an_error_inside_still_counts(clock, now):
    with pytest.raises(KeyError), clock.training():
        now[0] += 2.0
        raise KeyError
    assert clock.read(1, images=1)["seconds"] == 2.0
