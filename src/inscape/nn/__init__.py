"""Neural network modules, one idea a file."""
