"""The metrics of a run as files of JSON lines."""

import json
import os

import pytest
from epochs import RECORDS, log, record, timing

from lsam_jax.experiments.training.loggers import JsonLines


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_come_back_as_they_were(tmp_path):
    log(JsonLines(tmp_path), (1, 2, 3, 4))
    assert lines(tmp_path / "timing.jsonl") == [timing(epoch) for epoch in (1, 2, 3, 4)]
    found = lines(tmp_path / "metrics.jsonl")
    expected = [record(epoch) for epoch in (1, 2, 3, 4)]
    for epoch, name in ((2, "sharpness"), (3, "gradient_norm"), (4, "gradient_norm")):
        expected[epoch - 1][name] = None  # not finite
    assert found == expected
    assert [list(line) for line in found] == [list(record(1))] * 4
    assert list(found[0]["layer_norms"]) == ["stem/kernel", "head/kernel"]
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "timing.jsonl"]


def test_each_epoch_is_in_the_files_at_once(tmp_path):
    sink = JsonLines(tmp_path)
    sink.start([])
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    for epoch in (1, 2):
        sink.epoch(record(epoch), timing(epoch))
        for name in ("metrics.jsonl", "timing.jsonl"):
            assert len(lines(tmp_path / name)) == epoch
            assert (tmp_path / name).read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("written", [0, 2, 3, 4])
@pytest.mark.parametrize("half", [b"", b'{"epoch": 5, "st', b"\n\x00\x00"])
def test_a_resumed_run_writes_what_one_that_was_never_killed_does(tmp_path, written, half):
    """The state of epoch 2 is restored after epochs up to `written` were logged."""
    (whole := tmp_path / "whole").mkdir()
    (killed := tmp_path / "killed").mkdir()
    log(JsonLines(whole), (1, 2, 3, 4))
    log(JsonLines(killed), range(1, written + 1))
    for name in ("metrics.jsonl", "timing.jsonl"):
        with (killed / name).open("ab") as file:
            file.write(half)
    restored = [json.loads(json.dumps(record)) for record in RECORDS[:2]]
    sink = JsonLines(killed)
    sink.start(restored)
    for epoch in (3, 4):
        sink.epoch(record(epoch), timing(epoch))
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("half", [b"", b'{"epoch": 3, "sec'])
def test_times_are_kept_but_for_half_a_line(tmp_path, half):
    log(JsonLines(tmp_path), (1, 2))
    with (tmp_path / "timing.jsonl").open("ab") as file:
        file.write(half)
    log(JsonLines(tmp_path), (2, 3), restored=1)
    assert lines(tmp_path / "timing.jsonl") == [timing(epoch) for epoch in (1, 2, 2, 3)]
    (tmp_path / "timing.jsonl").write_bytes(half)  # and no whole one
    JsonLines(tmp_path).start([])
    assert (tmp_path / "timing.jsonl").read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full disk to write on")
@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_a_full_disk_names_the_file(tmp_path, name):
    sink = JsonLines(tmp_path)
    sink.start([])
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"cannot write '.*{name}' \(No space left"):
        sink.epoch(record(1), timing(1))


def test_a_directory_that_is_gone_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"cannot write '.*metrics.jsonl' \(No such file"):
        JsonLines(tmp_path / "gone").start([])
