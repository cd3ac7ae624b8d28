"""A small transformer, fine-tuned on text."""
