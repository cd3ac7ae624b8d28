"""Every notebook runs, in its short form, and its stored outputs are those of its source."""

import os
import pathlib
import re
import subprocess
import sys

import jupytext
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/([\w./-]+)")
LARGEST = 500_000  # bytes
each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def stored(source):
    return jupytext.read(source.with_suffix(".ipynb"))


def outputs(source):
    cells = [cell for cell in stored(source).cells if cell.cell_type == "code"]
    return [output for cell in cells for output in cell.outputs]


def test_there_are_five():
    assert [path.stem[:2] for path in SOURCES] == ["01", "02", "03", "04", "05"]


@pytest.mark.slow
@pytest.mark.notebook
@each
def test_runs_without_a_warning(source, tmp_path):
    environment = {
        **os.environ,
        "LSAM_NOTEBOOK_SHORT": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": str(tmp_path),
        "TFDS_DATA_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(source)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr


@each
def test_the_notebook_is_its_source(source):
    texts = [
        [(cell.cell_type, cell.source) for cell in notebook.cells]
        for notebook in (jupytext.read(source), stored(source))
    ]
    assert texts[0] == texts[1]


@each
def test_outputs_are_complete_and_name_no_machine(source):
    notebook = stored(source)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for output in outputs(source)}
    assert kinds <= {"stream", "display_data"}  # no error, and no object's repr
    assert all(output.name == "stdout" for output in outputs(source) if "name" in output)
    assert any("image/png" in output.get("data", {}) for output in outputs(source))
    assert notebook.metadata.kernelspec.name == "python3"
    text = source.with_suffix(".ipynb").read_text()
    assert len(text) < LARGEST
    assert '"execution": {' not in text  # timestamps
    assert not re.search(r"/(home|tmp|root|work|Users|usr|opt)/|0x[0-9a-f]{6}", text)


def test_badges_open_their_notebook_and_one_repository():
    readme = BADGE.findall((ROOT / "README.md").read_text())
    assert [path for _, path in readme] == [f"notebooks/{path.stem}.ipynb" for path in SOURCES]
    for source in SOURCES:
        [(repository, path)] = BADGE.findall(source.read_text())
        assert (repository, path) in readme
    assert len({repository for repository, _ in readme}) == 1
