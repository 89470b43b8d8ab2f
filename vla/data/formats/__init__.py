"""Formats of recordings on disk."""
