"""Named adapters of a frozen module: low-rank updates of its linear layers, switched and blended while it runs."""
