"""``python -m kinetext`` is ``kinetext``."""

from kinetext.cli import main

if __name__ == "__main__":
    main()
