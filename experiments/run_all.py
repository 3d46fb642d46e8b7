"""Everything behind docs/reproduce.md, one after the other; what is finished is not run again.

    python experiments/run_all.py [--quick]

``--quick`` takes two pairs of each, to see that everything runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPERIMENTS = ("noise_free", "axis", "fig4_iterations")


def main() -> None:
    """Run each experiment in a process of its own; real data only where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    options = parser.parse_args()
    for name in EXPERIMENTS:
        quick = ["--pairs", "2"] if options.quick else []
        if options.quick and name == "fig4_iterations":
            quick += ["--interval", "60", "--tilt", "60", "--snr", "0.5"]
        print(f"== {name}", flush=True)
        command = [sys.executable, HERE / name / "run.py", "--out", options.out / name, *quick]
        subprocess.run([str(part) for part in command], check=True)
    data = options.data
    if not data.exists():
        print(f"== ribosomes: skipped, there are no data at {data} (--data)")
    else:
        for script in ("run.py",) if options.quick else ("run.py", "noise.py"):
            print(f"== ribosomes/{script}", flush=True)
            subprocess.run([sys.executable, str(HERE / "ribosomes" / script), "--data", str(data)], check=True)


if __name__ == "__main__":
    main()
