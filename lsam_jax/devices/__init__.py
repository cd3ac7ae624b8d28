"""Several devices: what lies where, and what is averaged over them."""
