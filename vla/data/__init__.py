"""The data: folders of recordings become training and validation samples (vla/data/dataset.py)."""
