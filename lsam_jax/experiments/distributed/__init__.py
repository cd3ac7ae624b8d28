"""Several devices, and several processes of one run."""
