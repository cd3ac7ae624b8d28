"""Turn any set of runs into one HTML page and a Markdown file.

Reads every run of lsam-jax train that is finished below a directory, and writes report.html, one
file that needs nothing beside it, and report.md with its pictures in report/: accuracy with its
spread over seeds and paired tests against SGD, beside the paper's; cost, and accuracy at equal
time; curves, gradient norms and perturbations of the layers; what lsam-jax diagnose found, if it
was run; settings and environments. Runs that are missing, failed, unfinished or damaged are named,
and do not stop the rest. With the study.json of lsam-jax reproduce the tables are its; without,
runs that differ in the seed alone are one line.
"""

import argparse
from typing import Any

from lsam_jax.experiments.cli import options


def add(commands: Any) -> None:
    """Adds the command."""
    option = options.add_command(commands, "report", run, __doc__)
    option("directory", metavar="DIR", help="that holds runs, at any depth")
    option("--out", metavar="DIR", help="of the two files (default: the directory of the runs)")
    option("--title", metavar="TEXT", help="of the page (default: what was run)")


def run(arguments: argparse.Namespace) -> None:
    """Runs it."""
    from lsam_jax.experiments.report import report

    written = report(arguments.directory, arguments.out, title=arguments.title)
    print(f"{written.html} and {written.markdown}, with {len(written.pictures)} pictures")
