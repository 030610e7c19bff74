"""`python -m chartray`, which torchrun needs."""

from chartray.cli import main

main()
