"""Benchmarks of a gradient step: `methods`, `selections`, `compile_time`."""
