"""`python -m polos` is the `polos` command, for where a script isn't on the path, or there is more than one Python."""

from __future__ import annotations

from polos.cli import main

if __name__ == "__main__":
    main()
