"""The proof of resume: launches that are killed, and the comparison with one that was left alone."""
