"""What a report reads and counts."""
