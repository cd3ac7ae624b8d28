"""``python -m lsam_jax.experiments.cli``."""

import sys

from lsam_jax.experiments.cli.main import program

if __name__ == "__main__":
    sys.exit(program())
