"""`python -m lepjax` is the `lepjax` command."""

from lepjax.cli.main import main

main()
