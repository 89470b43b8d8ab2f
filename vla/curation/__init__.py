"""Curation: which clips and episodes are good enough to learn from, and why the others are not."""
