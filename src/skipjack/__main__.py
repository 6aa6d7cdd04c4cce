"""`python -m skipjack` is the command `skipjack`."""

from skipjack.cli.main import main

main()
