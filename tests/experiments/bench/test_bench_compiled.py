"""What compilers make of a step: what is read of a dump, and a dump of a step."""

import dataclasses
from importlib import metadata
from types import SimpleNamespace

import jax
import pytest

from lsam_jax.experiments.bench import compile_one, compiled, hlo, tables, targets
from lsam_jax.experiments.bench.compiled import Settings
from lsam_jax.experiments.cli.main import main
from lsam_jax.experiments.tables import show

SMALL = {"networks": ("resnet8",), "methods": ("layer-wise",), "batch_size": 4, "image_size": 8}

PROGRAM = """\
HloModule jit_step

%sums (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(f32[] %a, f32[] %b)
}

%reduced (p: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-reduce(%p), to_apply=%sums
}

%taken (p: f32[8]) -> (f32[8], pred[3,5]) {
  %f = f32[8]{0} fusion(%p), calls=%reduced, backend_config={"estimated_cycles":"7"}
  ROOT %t = (f32[8], pred[3,5]) tuple(%f, %f)
}

%left (p: f32[8]) -> (f32[8], pred[3,5]) {
  %c = f32[8]{0} copy(%p), backend_config={"estimated_cycles":"5"}
  ROOT %t = (f32[8], pred[3,5]) tuple(%c, %c)
}

%body (p: f32[8]) -> f32[8] {
  ROOT %b = f32[8]{0} fusion(%p), calls=%reduced, backend_config={"estimated_cycles":"4"}
}

ENTRY %main (x: f32[8], q: pred[]) -> f32[8] {
  %s = f32[8]{0} fusion(%x), backend_config={"estimated_cycles":"10"}
  %one = (f32[8]{0}, pred[3,5]{1,0}) conditional(%q, %s, %s), true_computation=%taken, \
false_computation=%left
  %two = bf16[2,3]{1,0} conditional(%q, %s, %s), branch_computations={%left, %left}
  ROOT %w = f32[8]{0} while(%s), body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""
THUNKS = """\
000: kCommandBuffer [source]
    001: kConditional [captured]
        002: kCustomKernel
003: kConditional [by the host]
  true_branch:
    000: kCommandBuffer
        004: kCustomKernel
    005: kConditional [by the host too]
"""


@pytest.fixture
def dump(tmp_path):
    (tmp_path / "m.after_optimizations.txt").write_text(PROGRAM)
    (tmp_path / "m.after_optimizations-memory-usage-report.txt").write_text("Total bytes: 123 (")
    (tmp_path / "small.after_optimizations.txt").write_text("HloModule other\n")
    return tmp_path


def test_what_is_read_of_a_dump(dump):
    """By hand: 8 float32 and 15 booleans, and 6 bfloat16; one all-reduce behind a fusion."""
    handed = 8 * 4 + 15 + 6 * 2
    assert hlo.read(dump) == (123, 2, handed, 1, None, None)
    # The dearer branch of each, and three turns of the loop.
    assert hlo.read(dump, PROGRAM).cycles == 10 + 7 + 5 + 3 * 4
    endless = PROGRAM.replace("known_trip_count", "unknown")
    assert hlo.read(dump, endless).cycles is None


def test_a_collective_in_a_conditional_in_another_is_one(dump):
    inner = "%i = f32[8]{0} conditional(%p, %c), true_computation=%taken, false_computation=%sums"
    nested = PROGRAM.replace("  %c = f32[8]{0} copy(%p)", f"  {inner}\n  %c = f32[8]{{0}} copy(%p)")
    assert nested != PROGRAM
    (dump / "m.after_optimizations.txt").write_text(nested)
    assert hlo.read(dump).conditionals == 3
    assert hlo.read(dump).collectives == 1


def test_a_conditional_in_a_command_buffer_is_not_run_by_the_host(dump):
    (dump / "m.thunk_sequence_after_thunk_passes.txt").write_text(THUNKS)
    assert hlo.read(dump).by_host == 2


def test_what_is_refused_before_anything_is_compiled(monkeypatch):
    with pytest.raises(ValueError, match="target='gpu' is not known; choose from cpu, tpu-v5e, h"):
        Settings(target="gpu")
    with pytest.raises(ValueError, match="method='lsam' is not known; choose from plain, textb"):
        Settings(methods=("lsam",))
    with pytest.raises(ValueError, match="resnet9"):
        Settings(networks=("resnet9",))
    with pytest.raises(ValueError, match="devices=0 must be at least 1"):
        Settings(devices=0)
    with pytest.raises(ValueError, match="devices=99 is more than the"):
        targets.mesh("cpu", 99)

    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", nothing)
    with pytest.raises(ValueError, match="target=tpu-v5e needs the compiler of libtpu"):
        Settings(target="tpu-v5e")


@pytest.mark.slow
@pytest.mark.parametrize("method", compile_one.METHODS)
def test_every_step_can_be_traced(method):
    work = compile_one.work_of("resnet8", Settings(**SMALL))
    step, args = compile_one.step_of(method, work)
    assert jax.tree.leaves(jax.eval_shape(step, *args))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "tpu-v5e"])
def test_a_dump_of_a_step(target, capsys):
    try:
        settings = Settings(target=target, **SMALL)
    except ValueError as error:
        pytest.skip(str(error))
    report = {"bench": "compiled", "settings": dataclasses.asdict(settings)}
    report |= compiled.bench(settings)
    rows = report["rows"]["resnet8"]
    assert list(rows) == ["plain", "textbook", "layer-wise"]
    assert all(row["memory_bytes"] > 0 < row["compile_seconds"] for row in rows.values())
    assert rows["plain"]["conditionals"] == rows["textbook"]["conditionals"] == 0
    assert (rows["layer-wise"]["conditionals"] > 0) == (target == "cpu")
    show(*tables.of(report))
    assert "layer-wise" in capsys.readouterr().out


@pytest.mark.parametrize("failed", ["plain", "textbook"])
def test_what_others_are_compared_with_may_fail(failed):
    row = {"trace_seconds": 2.0, "compile_seconds": 4.0, "memory_bytes": 6, "cycles": 8}
    rows = {name: dict(row) for name in ("plain", "textbook", "sam")}
    rows[failed] = {"error": "out of memory"}
    settings = {"devices": 1, "target": "tpu-v5e"}
    report = {"bench": "compiled", "settings": settings, "rows": {"resnet8": rows}}
    (table,) = tables.of(report)
    shown = {column.header: list(column.cells)[2] for column in table.columns}
    known = {"textbook": "compile\n(x)", "plain": "cycles\n(x plain)"}
    assert {name: shown[column] for name, column in known.items()} == {
        name: "-" if name == failed else "1.00" for name in known
    }


def test_plain_without_cycles_is_no_obstacle():
    rows = {"plain": {"cycles": None}, "textbook": {"cycles": 3}}
    settings = {"devices": 1, "target": "tpu-v5e"}
    (table,) = tables.of({"bench": "compiled", "settings": settings, "rows": {"resnet8": rows}})
    assert list(table.columns[-1].cells) == ["-", "-"]


def test_the_command_says_that_programs_failed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compiled.compile_one, "__name__", "lsam_jax.no_such_module")
    file = tmp_path / "compiled.json"
    words = ["--networks", "resnet8", "--methods", "sam", "--out", str(file)]
    assert main(["bench", "compiled", *words]) == 1
    said = capsys.readouterr().err
    assert "3 of the programs failed: resnet8: plain, resnet8: textbook, resnet8: sam" in said
    assert file.is_file()


def test_windows_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(compiled, "os", SimpleNamespace(name="nt"))
    with pytest.raises(OSError, match="which Windows does not tell"):
        Settings()


@pytest.mark.slow
def test_a_cpu_plays_several_devices():
    settings = Settings(**SMALL, devices=2)
    row = compiled._row(settings, "resnet8", "plain")
    assert row.get("error") is None
    assert row["memory_bytes"] > 0


def test_a_compiler_that_fails_costs_its_own_row_alone(monkeypatch, capsys):
    monkeypatch.setattr(compiled.compile_one, "__name__", "lsam_jax.no_such_module")
    settings = Settings(**SMALL)
    found = compiled.bench(settings)["rows"]["resnet8"]
    assert all("no_such_module" in row["error"] for row in found.values())
    report = {"bench": "compiled", "settings": dataclasses.asdict(settings)}
    show(*tables.of(report | {"rows": {"resnet8": found}}))
    assert "failed" in capsys.readouterr().out
