"""Studies: many runs, and what is measured on them."""
