"""Environments that come with the project; they are opened by name, as a user's own are."""
