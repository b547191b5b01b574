"""`python -m selfdev`."""

from selfdev.cli import main

main()
