"""That another process of a run is gone."""

LOST = (
    "another process of this run has ended or is not heard of any more; the last checkpoint is "
    "whole: start all of them again with --resume, or one alone"
)
STATUS = 3
"""Of a process that ends for this."""


class LostError(OSError):
    """Another process of the run is gone."""
