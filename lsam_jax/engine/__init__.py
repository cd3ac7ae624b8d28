"""The engine: both gradients of a step, with nothing computed twice.

It knows no method and no state.
"""
