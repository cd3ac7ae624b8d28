"""Data sets, and what happens to them before a step."""
