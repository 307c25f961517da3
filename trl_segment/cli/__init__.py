"""The command line: arguments in, one call, output. With `trainer/` the only floor that imports trl."""
