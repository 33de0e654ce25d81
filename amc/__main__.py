"""``python -m amc`` is the command ``amc``."""

from amc.cli import main

main()
