"""What becomes of data, runs and numbers where processes are killed and precision is low."""
