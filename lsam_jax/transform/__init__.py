"""From a method's parts to a step, its state, and the two ways to call it."""
