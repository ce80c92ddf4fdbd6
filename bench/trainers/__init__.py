"""One module per RL library: only it knows that library."""
