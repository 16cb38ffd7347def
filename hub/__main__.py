"""`python -m hub` is `hub`."""

from .cli import main

main()
