"""Runs to one page: what they found, beside what the paper reports."""

from lsam_jax.experiments.report.compose import Written, report

__all__ = ["Written", "report"]
