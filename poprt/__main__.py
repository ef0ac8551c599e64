"""`python -m poprt` is the command `poprt`."""

from poprt_cli.main import main

main()
