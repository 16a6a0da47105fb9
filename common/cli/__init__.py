"""The command-line program `rosetta`: the only package that prints and exits."""
