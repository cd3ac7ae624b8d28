"""The networks, and how pretrained weights are read."""
