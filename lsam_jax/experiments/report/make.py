"""The command's work: read, compose, write."""

from pathlib import Path
from typing import NamedTuple

from lsam_jax.experiments import files
from lsam_jax.experiments.files import PathLike
from lsam_jax.experiments.report.compose import compose
from lsam_jax.experiments.report.numbers.study import read_study
from lsam_jax.experiments.report.page import write


class Written(NamedTuple):
    """The files of a report.

    Attributes:
        html: All in one file.
        markdown: The same, with its pictures beside it.
        pictures: PNGs, in reading order.
    """

    html: Path
    markdown: Path
    pictures: tuple[Path, ...]


def report(
    directory: PathLike, out: PathLike | None = None, *, title: str | None = None
) -> Written:
    """Turns the runs below a directory into ``report.html`` and ``report.md``.

    With ``study.json`` they are grouped as it says, and its tables are filled; without, runs that
    differ in the seed alone are one group, and all groups of one recipe one table.

    Args:
        directory: With runs of `lsam-jax train` anywhere below.
        out: Where the two files go, and the pictures of the second into ``report/``; None for
            `directory`. Old files of these names are replaced.
        title: None for one from what was run.

    Returns:
        What was written.

    Raises:
        ValueError: When there is no run, or a file of the study is damaged. A damaged run does not
            stop the others: the report names it.
        OSError: When `out` cannot be written.
    """
    study = read_study(Path(directory))
    place = files.writable_directory(directory if out is None else out)
    html, markdown, *pictures = write(compose(study, title), place, "report", "report")
    return Written(html, markdown, tuple(pictures))
