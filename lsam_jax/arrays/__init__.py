"""What is done with arrays, whatever they stand for."""
