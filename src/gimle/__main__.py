"""`python -m gimle` is the command `gimle`."""

from gimle.interfaces.cli.main import main

main()
