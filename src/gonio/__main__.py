"""``python -m gonio``: the command line."""

from gonio.cli import main

if __name__ == "__main__":
    main()
