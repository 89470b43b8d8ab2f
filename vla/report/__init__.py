"""A run as one HTML file: read the run folder, draw, write. It needs no network, no server and no script.

Names and instructions in a run folder are text of others: every text passes `markup.text`, which escapes it and hides
secrets, and the page forbids scripts and the network by its own policy.
"""
