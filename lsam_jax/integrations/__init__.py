"""Where a framework needs a few lines more: each module imports its own framework."""
