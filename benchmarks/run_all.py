"""How fast gonio is, as one table of times and ratios from one run; nothing is written unless asked for.

    python benchmarks/run_all.py [--quick | --long] [--only NAME ...] [--pairs N] [--set-size N] [--out FILE]

Times depend on the machine and on what else it does; ratios are of things timed in turns: of one thread by the time of
the processor, else on the clock. ``--quick`` is a glance, to see that everything runs; ``--long`` takes 100 pairs, 1000
targets at all orientations, and every way of aligning in every box.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

PARTS = ("kernels", "one_pair", "interpreter", "many", "all_pairs", "memory", "startup", "scale")
# What is timed has as many threads as it is given: those of the libraries below would come on top.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", dest="extent", action="store_const", const="QUICK")
    extent.add_argument("--long", dest="extent", action="store_const", const="LONG")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--pairs", type=int, help="pairs of particles behind each median")
    parser.add_argument("--set-size", type=int, help="particles of which all pairs are aligned")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a file to write, .json or .md")
    chosen = parser.parse_args()
    if chosen.out is not None and chosen.out.suffix not in (".json", ".md"):
        parser.error(f"--out must end in .json or .md, got {str(chosen.out)!r}")
    return chosen


def machine() -> dict[str, object]:
    """What the times are of."""
    facts = {name: version(name) for name in ("gonio", "numpy", "scipy", "numba")}
    return {"processor": processor(), "processors": os.cpu_count(), "python": platform.python_version(), **facts}


def processor() -> str:
    """Its name, as far as the system tells."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Run the parts one after the other and print each when it is done."""
    chosen = options()
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    # Only now: the libraries look at the environment when they are loaded.
    plans, table = importlib.import_module("plan"), importlib.import_module("table")
    plan = getattr(plans, chosen.extent or "USUAL")
    asked = {"pairs": chosen.pairs, "set_size": chosen.set_size}
    plan = replace(plan, **{name: count for name, count in asked.items() if count is not None})
    facts = machine()
    head = ", ".join(f"{name} {value}" for name, value in facts.items())
    print(head, "\n", sep="", flush=True)
    found, text = {}, [head, ""]
    for part in (part for part in PARTS if part in chosen.only):
        rows = importlib.import_module(part).run(plan)
        found[part] = [row.as_dict() for row in rows]
        text.append(table.markdown(part, rows))
        print(text[-1], flush=True)
    if chosen.out is not None:
        whole = {"machine": facts, "plan": vars(plan), "parts": found}
        as_json = chosen.out.suffix == ".json"
        chosen.out.write_text(json.dumps(whole, indent=2) + "\n" if as_json else "\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
