"""The command line: click reads, rich draws, and the calls go through `gimle.client` to a server like any other's.

Only `up`, `serve`, `worker`, `migrate`, `setup`, `doctor` and `models` open parts of Gimle itself. No other door is
imported from here.
"""
