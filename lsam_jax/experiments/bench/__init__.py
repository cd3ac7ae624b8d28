"""Benchmarks of a gradient step: `methods`, `selections`."""
