"""Every benchmark of the online half, in one object or as one table after the other.

    python -m benchmarks.online [--quick] [--json]

Each part runs in a process of its own, and is a command itself: `python -m benchmarks.online.http`.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.reporting import emit

PARTS = ("scoring", "http", "stores", "flips")


def main() -> None:
    """Run all of them and print."""
    parser = argparse.ArgumentParser(description="Every benchmark of the online half.")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the tables")
    options = parser.parse_args()
    chosen = [f"--{name}" for name in ("quick", "json") if getattr(options, name)]
    together: dict[str, Any] = {}
    for part in PARTS:
        command = [sys.executable, "-m", f"benchmarks.online.{part}", *chosen]
        if options.json:
            together |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        else:
            subprocess.run(command, check=True)
    if options.json:
        emit(together)


if __name__ == "__main__":
    main()
