"""Folders and files from strangers: nothing runs, nothing of the user's is written over, nothing hangs."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import zlib
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from gonio import Pose, Result
from gonio.alignment.particle_list import AlignedRow
from gonio.alignment.result import Optimum
from gonio.run import checkpoint as checkpoints
from gonio.run.checkpoint import Checkpoint
from gonio.run.folder import RunFolder, _holder, result_folder
from gonio.run.packing import pack, unpack
from gonio.search.levenberg_marquardt import Status

FACTS = {"seed": 1}
VICTIM = "what the user wants to keep"


@pytest.fixture
def victim(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text(VICTIM)
    return tmp_path / "home" / "thesis.tex"


def begin(path, **options):
    return RunFolder.opened(path, FACTS, command="gonio align", **{"resume": False, "overwrite": False, **options})


def row() -> AlignedRow:
    """A result with all parts that one usually has."""
    rng = np.random.default_rng(0)
    poses = Pose.random(3, rng=rng, max_shift_angstrom=7.0)
    others = tuple(Optimum(poses[i], 0.1 * i, 0.2 * i) for i in (1, 2))
    return AlignedRow(
        Result(poses[0], 0.3, Status.CONVERGED, 4, 0.5, rng.normal(size=(6, 6)), others), 32, float("nan")
    )


def record(content: bytes, *, synced: int = 0) -> bytes:
    checked = struct.pack("<QQ", synced, len(content)) + content
    return b"\xf5gj\n" + struct.pack("<I", zlib.crc32(checked)) + checked


def crafted(path: Path, *contents: bytes) -> Path:
    """A checkpoint of good checksums with any content."""
    path.write_bytes(b"gonio journal 3\n" + b"".join(record(content) for content in contents))
    return path


HEAD = json.dumps({"facts": FACTS, "command": "gonio align"}).encode()
KEY = b'["align", 0, []]\n'
# The value of a row: pose, dissimilarity, status, iterations, overlap, covariance and four more; box; before.
QUATERNION, SHIFT, COVARIANCE = (struct.pack(f"<{n}d", *([0.0] * (n - 1) + [1.0])) for n in (4, 3, 36))
ARRAYS = QUATERNION + SHIFT + COVARIANCE


def value(
    quaternion='["<f8",[4],"C"]', status='"CONVERGED"', iterations="4", covariance='["<f8",[6,6],"C"]', box="32", **_
):
    pose = f'[{quaternion},["<f8",[3],"C"]]'
    return f"[[{pose},0.3,{status},{iterations},0.5,{covariance},[],null,null,null],{box},NaN]\n".encode()


def test_the_value_that_is_crafted_below_is_a_good_one(tmp_path):
    checkpoint = Checkpoint.resume(crafted(tmp_path / "journal", HEAD, KEY + value() + ARRAYS), FACTS)
    assert checkpoint.value("align", 0, AlignedRow).result.status is Status.CONVERGED
    checkpoint.close()


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


VALUES = {
    "nothing": b"",
    "no JSON": b"\xff\xfe\n",
    "no line": value().strip(),
    "deep JSON": b"[" * 100_000 + b"\n",
    "long number": value(iterations="9" * 100_000) + ARRAYS,
    "object": value(iterations='{"__class__":"os.system"}') + ARRAYS,
    "true for a number": value(iterations="true") + ARRAYS,
    "text for a number": value(iterations='"4"') + ARRAYS,
    "real for a whole number": value(iterations="4.5") + ARRAYS,
    "no status": value(status='"__class__"') + ARRAYS,
    "status of no text": value(status="[]") + ARRAYS,
    "too few values": b"[1]\n" + ARRAYS,
    "array longer than the file": value(covariance='["<f8",[6,600000000000],"C"]') + ARRAYS,
    "array without end": value(covariance='["<f8",[4611686018427387904,4],"C"]') + ARRAYS,
    "array of negative length": value(covariance='["<f8",[-6,-6],"C"]') + ARRAYS,
    "array of half a length": value(covariance='["<f8",[6.0,6],"C"]') + ARRAYS,
    "array of true length": value(covariance='["<f8",[true,36],"C"]') + ARRAYS,
    "array of objects": value(covariance='["|O",[6,6],"C"]') + ARRAYS,
    "array of other numbers": value(covariance='["<i8",[6,6],"C"]') + ARRAYS,
    "array of structures": value(covariance='["<f8,<i8",[6,6],"C"]') + ARRAYS,
    "array in no order": value(covariance='["<f8",[6,6],"K"]') + ARRAYS,
    "array of another shape": value(covariance='["<f8",[36],"C"]') + ARRAYS,
    "array of no elements": value(covariance='["<f8",[0,1000000000000],"C"]') + ARRAYS,
    "array cut": value() + ARRAYS[:-1],
    "bytes left": value() + ARRAYS + b"x",
    "quaternion that is none": value() + bytes(32) + ARRAYS[32:],
    "quaternion without numbers": value() + struct.pack("<4d", *[np.nan] * 4) + ARRAYS[32:],
    "many poses for one": value(quaternion='["<f8",[1,4],"C"]') + ARRAYS,
    "pickle": pickle.dumps(Runs("was here")),
}


@pytest.mark.parametrize("content", VALUES.values(), ids=VALUES.keys())
def test_a_crafted_result_is_one_error(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = Checkpoint.resume(crafted(tmp_path / "journal", HEAD, KEY + content), FACTS)
    with pytest.raises(ValueError, match=r"journal holds no result of item 0 of 'align' .*: pass --overwrite") as told:
        checkpoint.value("align", 0, AlignedRow)
    checkpoint.close()
    assert len(str(told.value)) < 400
    assert not (tmp_path / "was here").exists()


RECORDS = {
    "head of no JSON": [b"\x80\x04."],
    "head of a list": [b"[]"],
    "head of other types": [b'{"facts": 3, "command": 4}'],
    "deep head": [b'{"facts":' + b'{"a":' * 100_000],
    "pickle": [pickle.dumps(Runs("was here"))],
    "key of no JSON": [HEAD, b"\x80\x04.\n" + value()],
    "key of a number": [HEAD, b"3\n" + value()],
    "key without line": [HEAD, b'["align", 0, []]'],
    "key of other types": [HEAD, b'[{"a": 1}, [], 3]\n'],
    "key without end": [HEAD, b'["align", 1e999, []]\n'],
    "deep key": [HEAD, b"[" * 100_000 + b"\n"],
    "files that are none": [HEAD, b'["align", 0, [[[], 1, 2, "3"]]]\n'],
    "nothing": [HEAD, b""],
}


@pytest.mark.parametrize("contents", RECORDS.values(), ids=RECORDS.keys())
def test_a_crafted_record_is_one_error(tmp_path, contents, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"journal .*pass --overwrite") as told:
        Checkpoint.resume(crafted(tmp_path / "journal", *contents), FACTS)
    assert len(str(told.value)) < 400
    assert not (tmp_path / "was here").exists()


def test_facts_and_commands_without_end_are_shown_short(tmp_path):
    head = json.dumps({"facts": {"seed": "x" * 10**6, "y" * 10**6: 1}, "command": "z" * 10**6}).encode()
    (tmp_path / "out" / ".gonio").mkdir(parents=True)
    crafted(tmp_path / "out" / ".gonio" / "journal", head)
    for options in ({}, {"resume": True}):
        with pytest.raises(ValueError, match="cut off") as told, begin(tmp_path / "out", **options):
            pass
        assert len(str(told.value)) < 600


def test_markers_without_records_do_not_take_for_ever(tmp_path):
    """Each claims the rest of the file, which would be summed once for each."""
    path = crafted(tmp_path / "journal", HEAD)
    claims = b"".join(b"\xf5gj\n" + struct.pack("<IQQ", 0, 10**9, 10**6) for _ in range(100_000))
    path.write_bytes(path.read_bytes() + b"x" + claims + bytes(10**6))
    begun = time.process_time()
    with pytest.raises(ValueError, match="damaged"):
        Checkpoint.resume(path, FACTS)
    assert time.process_time() - begun < 5


def test_results_of_any_bytes_are_a_result_or_an_error():
    rng, good = random.Random(0), pack(row(), AlignedRow)
    assert pack(unpack(good, AlignedRow), AlignedRow) == good
    kept = 0
    for _ in range(3000):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            what = rng.choice(("flip", "cut", "insert", "digit"))
            if what == "flip":
                content[at] ^= 1 << rng.randrange(8)
            elif what == "digit":
                content[at] = rng.choice(b"0123456789-.eN[]")
            elif what == "cut":
                del content[at : at + rng.randint(1, 8)]
            else:
                content[at:at] = rng.randbytes(rng.randint(1, 8))
        try:
            found = unpack(bytes(content), AlignedRow)
        except ValueError:
            continue
        kept += 1
        assert found.result.covariance.shape == (6, 6)
        assert found.result.pose.matrix.shape == (3, 3)
    assert 100 < kept < 2900  # flipped bits of numbers give other numbers


LINKS = [".gonio/lock", ".gonio/journal", ".gonio/journal.new", ".gonio"]


@pytest.mark.parametrize("linked", LINKS)
@pytest.mark.parametrize("how", ["link", "second name", "pipe"])
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_run_writes_through_no_link(tmp_path, victim, linked, how, options):
    inside = tmp_path / "out" / ".gonio"
    (inside if linked != ".gonio" else tmp_path / "out").mkdir(parents=True)
    place = tmp_path / "out" / linked
    if how == "link":
        place.symlink_to(victim.parent if linked == ".gonio" else victim)
    elif how == "pipe":
        os.mkfifo(place)
    elif linked == ".gonio":
        place.touch()
    else:
        place.hardlink_to(victim)
    try:
        with begin(tmp_path / "out", **options) as run:
            run.checkpoint.add("align", 0, "value", str)
            with run.results() as folder:
                (folder / "settings.toml").write_text("")
    except (ValueError, OSError) as error:
        assert len(str(error)) < 400
    assert victim.read_text() == VICTIM
    assert [file.name for file in victim.parent.iterdir()] == [victim.name]


@pytest.mark.parametrize("linked", [".out.lock", ".out.tmp", ".out.old"])
def test_results_are_written_through_no_link(tmp_path, victim, linked):
    (tmp_path / linked).symlink_to(victim if linked == ".out.lock" else victim.parent)
    with (
        pytest.raises(ValueError, match=rf"{linked} is not .* remove it"),
        result_folder(tmp_path / "out", overwrite=True),
    ):
        pass
    assert victim.read_text() == VICTIM
    assert (tmp_path / linked).is_symlink()


@pytest.mark.parametrize("linked", [".out.tmp", ".out.old"])
def test_folders_of_the_user_are_not_removed_unasked(tmp_path, linked):
    (tmp_path / linked).mkdir()
    (tmp_path / linked / "mine").write_text(VICTIM)
    for opened in (
        begin(tmp_path / "out"),
        begin(tmp_path / "out", overwrite=True),
        result_folder(tmp_path / "out", overwrite=True),
    ):
        with (
            pytest.raises(ValueError, match=rf"{linked} is not of gonio, which needs the name: move or remove it"),
            opened,
        ):
            pass
    assert (tmp_path / linked / "mine").read_text() == VICTIM


@pytest.mark.parametrize(
    "content",
    ['{"process": 1, "host": "' + "h" * 2000 + '"}', "[" * 5000, '{"process": [], "host": 3}', "[]", "\0", ""],
)
def test_a_lock_of_any_content_names_a_short_holder(content):
    assert _holder(StringIO(content)) == "another process"


HOSTILE = (
    "__future__",
    "numpy",
    "typer",
    "typing",
    "importlib",
    "contextlib",
    "gonio_extra",
    "multiprocessing",
    "rich",
)


@pytest.fixture
def hostile(tmp_path):
    """A folder with modules of names that gonio imports, each of which would leave a trace."""
    folder = tmp_path / "sent"
    folder.mkdir()
    for name in HOSTILE:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')\nraise SystemExit('hostile')\n")
    return folder


def clean_environment() -> dict[str, str]:
    source = str(Path(checkpoints.__file__).parents[2])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": source}


def test_the_program_imports_nothing_from_the_current_folder(tmp_path, hostile):
    words = [sys.executable, "-m", "gonio", "--version"]
    done = subprocess.run(words, cwd=hostile, env=clean_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gonio ")
    assert not (tmp_path / "was here").exists()
    # Such a folder is an attack: Python itself imports from it.
    words = [sys.executable, "-c", "import numpy"]
    assert subprocess.run(words, cwd=hostile, env=clean_environment(), capture_output=True, check=False).returncode
    assert (tmp_path / "was here").exists()


SPAWNS = """
import multiprocessing, sys
from gonio.cli import app
if __name__ == "__main__":
    app.run = lambda words: 0
    if len(sys.argv) > 1:
        try:
            app.main()
        except SystemExit:
            pass
    worker = multiprocessing.get_context("spawn").Process(target=print)
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)
"""


def test_workers_of_the_program_import_nothing_from_the_current_folder(tmp_path, hostile):
    script = tmp_path / "console_script.py"
    script.write_text(SPAWNS)
    for words, harmed in (["as gonio"], False), ([], True):
        command = [sys.executable, str(script), *words]
        done = subprocess.run(command, cwd=hostile, env=clean_environment(), capture_output=True, check=False)
        assert (done.returncode != 0) == harmed
        assert (tmp_path / "was here").exists() == harmed
