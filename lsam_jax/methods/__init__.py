"""The methods, one file each, with the parts that it alone uses."""
