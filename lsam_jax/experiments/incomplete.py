"""The error for results of which a part is missing."""


class IncompleteError(RuntimeError):
    """Some of several runs failed; the others are there."""
