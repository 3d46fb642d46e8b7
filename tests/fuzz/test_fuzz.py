"""A share of the fuzzer that takes moments, and what it must see: that it finds what is wrong, and repeats it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from corpus import CORPUS, made
from gonio.io.formats import FORMATS
from mutations import mutated

FUZZ = Path(__file__).with_name("fuzz.py")
# Cases of all readers together; a night (make fuzz) has millions, of another seed each time.
CASES = int(os.environ.get("GONIO_FUZZ_CASES", "2500"))

# A seed that asks for rows alone.
WHOLE = next(seed for seed in range(100) if Random(seed).random() < 0.3)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of time and memory are those of Unix")


@pytest.mark.slow
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path):
    words = [
        "--seconds",
        "300",
        "--cases",
        str(CASES),
        "--workers",
        "2",
        "--seed",
        "20",
        "--keep",
        str(tmp_path / "kept"),
    ]
    done = subprocess.run([sys.executable, str(FUZZ), *words], capture_output=True, text=True, check=False)
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and not findings, json.dumps(findings[:5], indent=1) + done.stderr
    assert int(done.stderr.split()[0]) >= min(CASES, 1000)


@pytest.mark.parametrize("name", CORPUS)
def test_whole_files_are_read(tmp_path, name):
    """What is changed is right before: else nothing is learnt of readers behind the first check.

    Without images particles cannot be loaded, which some seeds ask for.
    """
    from verdicts import READERS, verdict

    made(name, tmp_path)
    assert [verdict(name, tmp_path, Random(seed)) for seed in range(8)] == [None] * 8
    READERS[name.split()[0]](tmp_path, Random(WHOLE))


def test_every_format_of_lists_is_in_the_corpus():
    assert {name for name in FORMATS if f"list {name}" not in CORPUS} == set()


def test_a_seed_makes_one_file():
    whole = b"data_\nloop_\n_a\n1\n2\n" * 20
    first = [mutated(whole, Random(seed), [whole]) for seed in range(50)]
    assert first == [mutated(whole, Random(seed), [whole]) for seed in range(50)]
    assert sum(one != whole for one in first) > 45


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise TypeError('wrong')", "TypeError: wrong"),
        ("while True: pass", "took more than"),
        ("raise FormatError('a', 'b' * 300 + '\\x1b', 'c')", None),
        ("raise Nonsense('no rows')", "Nonsense: no rows"),
    ],
)
def test_what_is_wrong_is_seen(tmp_path, monkeypatch, body, says):
    import verdicts

    monkeypatch.setattr(verdicts, "SECONDS", 0.2)

    def read(folder: Path, rng: Random) -> None:
        exec(body, vars(verdicts))

    monkeypatch.setitem(verdicts.READERS, "list", read)
    wrong = verdicts.verdict("list x", tmp_path, Random(0))
    assert (wrong is None) if says is None else says in wrong
