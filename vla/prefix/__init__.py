"""What is computed of samples once and kept on disk: records of one size, found by their number."""
