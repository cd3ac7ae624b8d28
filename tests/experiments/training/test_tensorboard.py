"""The metrics of a run in TensorBoard's event files, read as TensorBoard reads them."""

import os
import struct

import numpy as np
import pytest
from epochs import log, record, timing

from lsam_jax.experiments.training.loggers import TensorBoard, scalars

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def events(path):
    """The events of one file: length, its checksum, the event, its checksum."""
    content, found = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        found.append(event_pb2.Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


def tensorboard(directory):
    """What TensorBoard shows of a directory: {name: {step: value}}, and how often it purged."""
    shown, restarts = {}, 0
    for path in sorted(directory.glob("*tfevents*")):
        first, *rest = events(path)
        assert first.file_version == "brain.Event:2"  # the rule below is of this version
        for event in rest:
            if event.session_log.status == event.session_log.START:
                restarts += 1
                for name, curve in shown.items():
                    shown[name] = {step: x for step, x in curve.items() if step < event.step}
            for value in event.summary.value:
                curve = shown.setdefault(value.tag, {})
                assert event.step not in curve, "a step is there twice"
                curve[event.step] = value.simple_value
    return shown, restarts


def test_tensorboard_shows_every_scalar_by_step(tmp_path):
    log(TensorBoard(tmp_path), (1, 2, 3))
    shown, restarts = tensorboard(tmp_path)
    assert restarts == 0
    expected = {}
    for epoch in (1, 2, 3):
        for name, value in scalars(record(epoch), timing(epoch)).items():
            expected.setdefault(name, {})[390 * epoch] = np.float32(value)
    assert shown.keys() == expected.keys()
    for name, curve in expected.items():
        np.testing.assert_equal(shown[name], curve, err_msg=name)


def test_tensorboard_shows_a_resumed_run_as_one(tmp_path):
    log(TensorBoard(tmp_path), (1, 2, 3))
    log(TensorBoard(tmp_path), (2, 3, 4), restored=1)
    shown, restarts = tensorboard(tmp_path)
    assert restarts == 1
    assert list(shown["train_loss"]) == [390, 780, 1170, 1560]
    assert list(shown["timing/seconds"]) == [390, 780, 1170, 1560]
    log(TensorBoard(tmp_path), (1,))  # from the start again
    assert list(tensorboard(tmp_path)[0]["train_loss"]) == [390]


def test_a_run_may_get_tensorboard_when_it_is_resumed(tmp_path):
    log(TensorBoard(tmp_path), (3, 4), restored=2)
    shown, restarts = tensorboard(tmp_path)
    assert restarts == 0
    assert list(shown["train_loss"]) == [390, 780, 1170, 1560]
    assert list(shown["timing/seconds"]) == [1170, 1560]


def test_half_an_event_does_not_hide_the_next_file(tmp_path):
    log(TensorBoard(tmp_path), (1, 2))
    (old,) = tmp_path.iterdir()
    old.write_bytes(old.read_bytes()[:-30])
    log(TensorBoard(tmp_path), (2,), restored=1)
    (new,) = set(tmp_path.iterdir()) - {old}
    assert new.name > old.name  # read after it
    assert [event.step for event in events(new)] == [391, 391, 780]


def test_each_epoch_is_in_the_event_file_at_once(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.start([])
    sink.epoch(record(1), timing(1))
    assert list(tensorboard(tmp_path)[0]["epoch"]) == [390]
    sink.close()
    sink.close()


def test_the_name_of_the_event_file_tells_no_machine(tmp_path):
    log(TensorBoard(tmp_path), ())
    (path,) = tmp_path.iterdir()
    assert path.name.removeprefix("events.out.tfevents.").isdigit()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full disk to write on")
def test_a_full_disk_names_the_event_file(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 7)
    (tmp_path / "events.out.tfevents.7").symlink_to("/dev/full")
    sink = TensorBoard(tmp_path)
    with pytest.raises(OSError, match=r"cannot write '.*events.out.tfevents.7' \(No space left"):
        sink.start([])
    with pytest.raises(OSError, match=r"cannot write '.*events.out.tfevents.7'"):
        sink.close()
    sink.close()
