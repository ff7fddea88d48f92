"""How long `import kinetext` and `kinetext --help` take beyond the interpreter's own start; medians, in seconds.

python benchmarks/startup.py [rounds]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

# what is started -> most seconds beyond the bare interpreter (issue 2)
LIMITS = {"import kinetext": 0.3, "kinetext --help": 0.6}
COMMANDS = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "import kinetext": [sys.executable, "-c", "import kinetext"],
    "kinetext --help": [sys.executable, "-m", "kinetext", "--help"],
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(rounds: int) -> int:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first round fills caches
    bare = medians["bare interpreter"]
    print(f"{'':18} {'median':>8} {'beyond':>8} {'limit':>8}")
    for name, median in medians.items():
        limit = f"{LIMITS[name]:8.3f}" if name in LIMITS else ""
        print(f"{name:18} {median:8.3f} {median - bare:8.3f} {limit}")
    return int(any(medians[name] - bare > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 11))
