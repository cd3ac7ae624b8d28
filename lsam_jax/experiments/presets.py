"""The presets, by name: what `lsam-jax train` trains."""

from lsam_jax.experiments.config.presets import PRESETS, Preset, preset

__all__ = ["PRESETS", "Preset", "preset"]
