"""Benchmarks of a gradient step: `methods`, `selections`, `recorded`, `scaling`."""
