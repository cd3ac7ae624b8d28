"""Makes the notebooks from their sources, and runs them: `python execute.py [SOURCE ...]`."""

import pathlib
import sys

import jupytext
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).parent
for source in map(pathlib.Path, sys.argv[1:] or sorted(HERE.glob("[0-9]*.py"))):
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # else they are random, and every run a large change
    NotebookClient(notebook, kernel_name="python3", record_timing=False).execute()
    jupytext.write(notebook, source.with_suffix(".ipynb"))
    print(source.stem)
