"""Everything behind docs/reproduce.md, one after the other; what is finished is not run again.

    python experiments/run_all.py [--quick] [--only NAME ...] [--out results] [--page-only]

``--quick`` takes one pair and one cell of each, to see that everything runs. What each printed is kept as NAME.txt, and
``report.html`` shows all of it on one page, the paper's numbers beside ours.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from page import write_page

HERE = Path(__file__).resolve().parent
ONE_CELL = ["--tilt", "60", "--snr", "0.5"]
# In order, since wrong_optima goes on from the pairs of Tables 1 and 2; and what makes a quick run quick.
EXPERIMENTS = {
    "noise_free": [],
    "axis": [],
    "tables_1_2": ["--phantom", "sharp", *ONE_CELL],
    "tables_3_4": ["--phantom", "sharp", *ONE_CELL],
    "fig3_convergence": [],
    "fig4_iterations": ["--interval", "60", *ONE_CELL],
    "wrong_optima": ["--phantom", "sharp", *ONE_CELL],
    "inputs": ["--phantom", "sharp", *ONE_CELL],
    "scan": ["--phantom", "sharp", "--snr", "0.5", "--interval", "20"],
    "overlap": ["--snr", "0.5"],
    "fig5": ["--particles", "3"],
    "fig6": ["--particles", "3", "--methods", "rcs"],
}
TABLES = ("tables_1_2", "tables_3_4", "wrong_optima", "inputs", "fig5", "fig6")  # those that write Markdown


def command(name: str, options: argparse.Namespace) -> list[str]:
    """How an experiment is called."""
    out = options.out / name
    parts = [sys.executable, HERE / name / "run.py", "--out", out, "--processes", options.processes]
    parts += ["--markdown", options.out / f"{name}.md"] if name in TABLES else []
    parts += ["--pairs", "1", *EXPERIMENTS[name]] if options.quick else []
    return [str(part) for part in parts]


def run(words: list[str], told: Path) -> None:
    """Run one command; what it prints is shown, and kept in a file once it has ended well."""
    lines = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    told.write_text("".join(lines))


def run_ribosomes(options: argparse.Namespace) -> None:
    """Real data, only where they are."""
    if not options.data.exists():
        print(f"== ribosomes: skipped, there are no data at {options.data} (--data)")
        return
    for script in ("run.py",) if options.quick else ("run.py", "noise.py", "everywhere.py"):
        print(f"== ribosomes/{script}", flush=True)
        words = [sys.executable, str(HERE / "ribosomes" / script), "--data", str(options.data)]
        run(words, options.out / f"ribosomes_{Path(script).stem}.txt")


def main() -> None:
    """Run each experiment in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*EXPERIMENTS, "ribosomes"], default=[*EXPERIMENTS, "ribosomes"])
    parser.add_argument("--page-only", action="store_true", help="only the page, of what has been run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.page_only:
        write_page(options.out)
        return
    for name in (name for name in EXPERIMENTS if name in options.only):
        print(f"== {name}", flush=True)
        run(command(name, options), options.out / f"{name}.txt")
    if "ribosomes" in options.only:
        run_ribosomes(options)
    write_page(options.out)


if __name__ == "__main__":
    main()
