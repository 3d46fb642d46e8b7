"""Fuzzing led by what code a file reaches, where atheris is installed (``pip install atheris``), beside ``fuzz.py``.

    python tests/fuzz/guided.py "list relion5" [FOLDER] [libFuzzer's options, such as -max_total_time=600 -seed=1]

The first file of that entry of the corpus is changed, all others stay. A finding ends it with a traceback, and its
file is kept (crash-...).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["gonio.io", "gonio.particle.table", "gonio.simulate.structure"]):
    from corpus import made
    from verdicts import limit_memory, verdict


def main() -> None:
    name, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        changed = made(name, folder)[0]
        seeds = Path(rest.pop(0)) if rest and not rest[0].startswith("-") else Path(scratch) / "seeds"
        seeds.mkdir(exist_ok=True)
        (seeds / changed.name).write_bytes(changed.read_bytes())
        limit_memory()

        def one(data: bytes) -> None:
            changed.write_bytes(data)
            wrong = verdict(name, folder, Random(len(data)))
            if wrong is not None:
                raise RuntimeError(wrong)

        atheris.Setup([sys.argv[0], "-max_len=20000", *rest, str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
