"""The command `rosetta`: the only place that prints and exits."""
