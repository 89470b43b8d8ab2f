"""The subcommands of `vla`, one module each: its settings, and what it does with them.

Heavy packages are imported by what needs them, so that help and mistakes answer at once.
"""
