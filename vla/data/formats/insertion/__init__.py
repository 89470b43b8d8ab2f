"""Recordings of the insertion recorder."""
