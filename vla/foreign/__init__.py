"""Models of other programs, as modules and files of ours."""
