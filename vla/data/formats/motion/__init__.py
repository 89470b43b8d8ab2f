"""Human motion on disk: clips of many formats, which become episodes of one body."""
