"""``python -m negotiator.cli``: the same as the command ``negotiator``."""

from __future__ import annotations

from negotiator.cli import main

if __name__ == "__main__":
    main()
