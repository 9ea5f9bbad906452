"""Entry point of ``python -m nightshift.cli`` and of the ``nightshift`` command."""

from nightshift.cli.app import main

if __name__ == "__main__":
    main()
