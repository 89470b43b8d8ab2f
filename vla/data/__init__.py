"""The data: `open_dataset` turns folders into training and validation samples."""

from vla.data.mixture import DataConfig

__all__ = ["DataConfig"]
