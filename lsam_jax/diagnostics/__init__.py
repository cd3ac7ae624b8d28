"""Tools to look at sharpness; arrays come out, and nothing is drawn."""
