"""Mutated files for every reader, with limits of time and memory, in processes of their own.

    python tests/fuzz/fuzz.py [--seconds 60] [--cases N] [--seed 0] [--workers 2] [--only TEXT] [--keep FOLDER]

A case is a number: the same seed makes the same file, whatever else runs. Findings are printed one a line as JSON, the
files kept in FOLDER, and the exit status is 1 where there are any. ``--case NUMBER`` repeats one.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from corpus import CORPUS, made
from mutations import mutated
from verdicts import ADDRESS_BYTES, LAST_SECONDS, limit_memory, verdict

ROUNDS = 50  # cases of one entry after another, so that its files are made once
LOST = f"the process ended: out of time ({LAST_SECONDS:g} s), out of {ADDRESS_BYTES >> 30} GB, or by a fault"


def run_case(name: str, folder: Path, files: list[Path], contents: list[bytes], seed: int, keep: Path) -> str | None:
    """Make the file of a seed, read it, and put the whole one back; what was wrong, or None."""
    rng = Random(seed)
    which = rng.randrange(len(files))
    broken = mutated(contents[which], rng, contents)
    files[which].write_bytes(broken)
    (keep / "now").write_text(json.dumps({"entry": name, "file": files[which].name, "seed": seed}))
    try:
        wrong = verdict(name, folder, rng)
        if wrong is not None:
            (keep / f"{name.replace(' ', '_')}-{seed}-{files[which].name}").write_bytes(broken)
            print(json.dumps({"entry": name, "file": files[which].name, "seed": seed, "wrong": wrong}), flush=True)
        return wrong
    finally:
        files[which].write_bytes(contents[which])


def work(names: list[str], first: int, step: int, stop: float, cases: int, keep: Path) -> None:
    """Run cases until time is up; prints findings, and at the end how many cases of which entry there were."""
    keep.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    limit_memory()
    seed = first
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / str(place) for place, name in enumerate(names)}
        corpus = {}
        for name, folder in folders.items():
            folder.mkdir()
            files = made(name, folder)
            corpus[name] = files, [path.read_bytes() for path in files]
        while time.monotonic() < stop and sum(counts.values()) < cases:
            name = names[seed // (step * ROUNDS) % len(names)]
            faulthandler.dump_traceback_later(LAST_SECONDS, exit=True)
            wrong = run_case(name, folders[name], *corpus[name], seed, keep)
            faulthandler.cancel_dump_traceback_later()
            counts[name] += 1
            seed += step
            if wrong is not None and wrong.startswith("grew"):
                break  # what a process once had hides what it has again: another goes on
            if not sum(counts.values()) % ROUNDS:
                (keep / "counts").write_text(json.dumps(counts))
    (keep / "counts").write_text(json.dumps(counts))
    (keep / "now").unlink(missing_ok=True)
    print(json.dumps({"next": seed}), flush=True)


def driven(options: argparse.Namespace, names: list[str], keep: Path) -> tuple[Counter[str], list[dict]]:
    """Workers beside each other until time is up, each begun anew where it ended early."""
    stop = time.monotonic() + options.seconds
    counts: Counter[str] = Counter()
    findings: list[dict] = []
    share = -(-options.cases // options.workers)
    places = {place: options.seed * 10**9 + place for place in range(options.workers)}
    left = dict.fromkeys(places, share)
    running = {place: _begun(options, first, share, stop, keep / str(place)) for place, first in places.items()}
    while running:
        for place, process in list(running.items()):
            try:
                out, _ = process.communicate(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            del running[place]
            folder, lines = keep / str(place), [json.loads(line) for line in out.splitlines()]
            findings += [line for line in lines if "wrong" in line]
            done = json.loads((folder / "counts").read_text()) if (folder / "counts").exists() else {}
            (folder / "counts").unlink(missing_ok=True)
            counts.update(done)
            after = next((line["next"] for line in lines if "next" in line), None)
            if after is None:
                if not (folder / "now").exists():
                    raise SystemExit("a worker ended before its first case")
                lost = json.loads((folder / "now").read_text())
                findings.append({**lost, "wrong": LOST})
                after = lost["seed"] + options.workers
            left[place] -= sum(done.values())
            if time.monotonic() < stop - 1 and left[place] > 0:
                running[place] = _begun(options, after, left[place], stop, folder)
    return counts, findings


def _begun(options: argparse.Namespace, first: int, cases: int, stop: float, keep: Path) -> subprocess.Popen[str]:
    words = ["--work", str(first), "--workers", str(options.workers), "--cases", str(cases), "--keep", str(keep)]
    words += ["--seconds", str(stop - time.monotonic()), "--only", options.only]
    errors = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, stderr=errors, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=10**12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="entries of the corpus whose names hold this")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where files that fail are kept")
    parser.add_argument("--case", type=int, help="repeat this case, of the entry that --only names")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [name for name in CORPUS if options.only in name]
    if options.work is not None:
        work(names, options.work, options.workers, time.monotonic() + options.seconds, options.cases, options.keep)
        return 0
    if options.case is not None:
        with tempfile.TemporaryDirectory() as scratch:
            files = made(names[0], Path(scratch))
            options.keep.mkdir(parents=True, exist_ok=True)
            contents = [path.read_bytes() for path in files]
            return int(run_case(names[0], Path(scratch), files, contents, options.case, options.keep) is not None)
    shutil.rmtree(options.keep, ignore_errors=True)
    counts, findings = driven(options, names, options.keep)
    for finding in findings:
        print(json.dumps(finding))
    print(f"{sum(counts.values())} cases of {len(counts)} entries, {len(findings)} findings", file=sys.stderr)
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
