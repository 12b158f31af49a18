"""Run the benchmarks one after the other and say where their results are: ``python benchmarks/report.py [NAME ...]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["SCRIPTS", "main"]

HERE = Path(__file__).resolve().parent
SCRIPTS = ("solver", "online", "market", "routing", "cache", "sessions", "gateway")


def main() -> int:
    """The number of scripts that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(SCRIPTS)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="short runs: minutes instead of an hour")
    given = parser.parse_args()
    unknown = set(given.names) - set(SCRIPTS)
    if unknown:
        parser.error(f"expected names among {', '.join(SCRIPTS)}, found {', '.join(sorted(unknown))}")
    failed = 0
    for name in given.names or SCRIPTS:
        began = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if given.quick else [])]
        print(f"== {name}", flush=True)
        code = subprocess.run(command, cwd=HERE.parent, check=False).returncode
        failed += code != 0
        verdict = f"results/{name}.md" if code == 0 else f"failed with exit code {code}"
        print(f"== {name}: {verdict}, {time.monotonic() - began:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
