"""`python -m daemon` is `rowvault`."""

from daemon.cli import main

main()
