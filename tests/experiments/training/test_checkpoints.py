"""Checkpoints: whole, ours and unharmed, or refused with the way out."""

import json
import logging
import resource
import shutil
import sys
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from lsam_jax.experiments.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    OwnCheckpoints,
    digest,
)

# Orbax's event loops and threads complain in their own ways of what is raised, and tested, here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


class Some(NamedTuple):
    params: dict
    optimizer: tuple
    key: jax.Array
    flags: jax.Array


def state(seed=0):
    params = {"a": jax.random.normal(jax.random.key(seed), (40, 50)), "b": jnp.arange(3.0)}
    optimizer = optax.sgd(0.1, momentum=0.9).init(params)
    flags = jnp.array([True, False])
    return Some(params, optimizer, jax.random.key(seed + 1), flags)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        plain = jax.random.key_data if is_key else np.asarray
        np.testing.assert_array_equal(plain(x), plain(y))


@pytest.fixture
def saved(tmp_path):
    checkpoints = OwnCheckpoints(tmp_path / "checkpoints")
    for step in (3, 5):
        checkpoints.save(step, state(step), {"number": step + 0.1})
    yield checkpoints
    checkpoints.close()


def test_what_is_saved_comes_back_bit_for_bit(saved):
    restored, meta = saved.restore(state())
    assert_same(restored, state(5))
    assert meta == {"number": 5.1}
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(restored))
    saved.save(8, state(8), {})
    assert saved.steps == [5, 8]  # the oldest goes
    assert_same(Checkpoints(saved.directory).restore(state())[0], state(8))


def test_nothing_saved_is_nothing_restored(tmp_path):
    checkpoints = OwnCheckpoints(tmp_path / "new")
    assert checkpoints.restore(state()) is None
    assert checkpoints.steps == []
    checkpoints.close()


def test_what_a_killed_process_left_is_not_taken_for_a_checkpoint(saved):
    shutil.copytree(saved.directory / "5", saved.directory / "9.orbax-checkpoint-tmp")
    again = OwnCheckpoints(saved.directory)
    assert again.steps == [3, 5]
    assert_same(again.restore(state())[0], state(5))
    again.save(9, state(9), {})
    assert again.steps == [5, 9]
    again.close()


def test_a_reader_leaves_what_a_run_is_writing(saved):
    half = saved.directory / "9.orbax-checkpoint-tmp"
    shutil.copytree(saved.directory / "5", half)
    reader = Checkpoints(saved.directory)
    assert_same(reader.restore(state())[0], state(5))
    reader.close()
    time.sleep(0.2)  # Orbax would clean up in a thread
    assert half.is_dir()
    own = OwnCheckpoints(saved.directory)
    own.save(8, state(8), {})
    own.close()
    assert not half.exists()  # the run itself cleans up


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("harm", ["truncated", "flipped", "deleted"])
def test_a_harmed_checkpoint_is_refused_with_the_way_out(saved, harm):
    arrays = [path for path in files(saved.directory / "5" / "state") if path.stat().st_size > 4000]
    assert arrays
    for path in arrays:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        if harm == "deleted":
            path.unlink()
        else:
            path.write_bytes(content if harm == "flipped" else content[: len(content) // 2])
    again = Checkpoints(saved.directory)
    words = r"checkpoint of step 5 in '.*' is damaged.*go on from the one before, that of step 3"
    with pytest.raises(CheckpointError, match=words):
        again.restore(state())
    shutil.rmtree(saved.directory / "5")
    again = Checkpoints(saved.directory)
    assert_same(again.restore(state())[0], state(3))  # the way out leads somewhere
    again.close()


def test_every_file_that_matters_is_guarded(saved, tmp_path):
    """Whichever file is cut in half: refused, or nothing of what is restored is lost."""
    for number, path in enumerate(files(saved.directory / "5")):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(saved.directory, copy)
        victim = copy / path.relative_to(saved.directory)
        victim.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        checkpoints = Checkpoints(copy)
        try:
            restored, meta = checkpoints.restore(state())
        except CheckpointError as error:
            assert "step 5" in str(error)
        else:
            assert (meta, checkpoints.steps[-1]) in (({"number": 5.1}, 5), ({"number": 3.1}, 3))
            assert_same(restored, state(checkpoints.steps[-1]))
        checkpoints.close()


def test_foreign_checkpoints_are_refused(tmp_path):
    other = ocp.CheckpointManager((tmp_path / "other").absolute(), item_names=("state", "meta"))
    items = {"state": {"w": np.ones(3)}}
    other.save(4, args=ocp.args.Composite(
        state=ocp.args.StandardSave(items), meta=ocp.args.JsonSave({"format": "theirs"})
    ))  # fmt: skip
    other.close()
    with pytest.raises(CheckpointError, match=r"step 4 .*not written by this program.*--out"):
        Checkpoints(tmp_path / "other").restore(state())
    empty = tmp_path / "rest" / "12"
    empty.mkdir(parents=True)
    (empty / "notes.txt").write_text("hello")
    with pytest.raises(
        CheckpointError, match=r"step 12 .*damaged or not one of this program's.*--out"
    ):
        Checkpoints(tmp_path / "rest").restore(state())


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"a": jnp.zeros((40, 51)), "b": jnp.zeros(3)}, r"'a'.* is float32\[40, 50\] there.*51"),
        ({"a": jnp.zeros((40, 50))}, r"'b'.* is float32\[3\] there and None in this run"),
        ({"a": jnp.zeros((40, 50)), "b": jnp.arange(3)}, r"'b'.* is float32\[3\] there and int32"),
        ({**state().params, "c": jnp.zeros(2)}, r"'c'.* is None there and float32\[2\]"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(saved, params, words):
    with pytest.raises(CheckpointError, match=rf"another network or method: .*{words}.*--out"):
        saved.restore(state()._replace(params=params))


def test_the_digest_covers_names_shapes_types_and_bytes(saved):
    meta = json.loads((saved.directory / "5" / "meta" / "metadata").read_text())
    assert len(meta["digest"]) == 32
    base = {"a": np.zeros((2, 3), np.float32)}
    others = [
        {"b": base["a"]},
        {"a": base["a"].T},
        {"a": base["a"].view(np.int32)},
        {"a": -base["a"]},  # minus zero
    ]
    assert len({digest(tree) for tree in [base, *others]}) == 5


def test_a_full_disk_leaves_the_last_good_checkpoint(saved):
    """Here, a limit on the size of files: writing past it fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        words = (
            r"checkpoint of step 8 could not be written into '.*'.*last good one is that of step 5"
        )
        with pytest.raises(CheckpointError, match=words):
            saved.save(8, state(8), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert saved.steps == [3, 5]
    assert_same(saved.restore(state())[0], state(5))


def loud():
    """What the process does with errors that nobody catches, and what it logs."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    return threading.excepthook, sys.unraisablehook, [logger.level for logger in loggers]


@pytest.mark.parametrize("step", ["open", "save", "restore"])
def test_an_error_leaves_no_hook_behind(tmp_path, saved, monkeypatch, step):
    def fail(*args, **kwargs):
        raise RuntimeError("for the test")

    before = loud()
    if step == "open":
        monkeypatch.setattr(ocp, "CheckpointManager", fail)
        with pytest.raises(RuntimeError):
            OwnCheckpoints(tmp_path / "other")
    else:
        monkeypatch.setattr(saved._manager, step, fail)
        with pytest.raises(CheckpointError, match="for the test"):
            saved.save(8, state(8), {}) if step == "save" else saved.restore(state())
    assert loud() == before
