"""What is put down comes back, whatever happened to the file; what has changed is named."""

from __future__ import annotations

import errno
import json
import os
import resource
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gonio import Pose, Result
from gonio.run.checkpoint import Changed, Checkpoint, TornRecord, command_in
from gonio.search.levenberg_marquardt import Status

FACTS = {"settings": {"limit": 40.0, "search": "local"}, "seed": 3, "inputs": {"/a/list.star": "12ab"}}


@dataclass(frozen=True)
class Kept:
    """A result."""

    value: int
    array: NDArray[np.float32]


@pytest.fixture
def path(tmp_path, opened):
    """A checkpoint of three items, of which two were synced before the third."""
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", FACTS)
    for item in range(3):
        checkpoint.add("align", item, Kept(item, np.arange(item, dtype=np.float32)), Kept)
        if item == 1:
            checkpoint.sync()
    checkpoint.close()
    return tmp_path / "journal"


def records(content):
    """Offset, synced and content of each, as the head of the module says; every checksum is right."""
    at, found = len(b"gonio journal 3\n"), []
    while at < len(content):
        marker, checksum, synced, length = struct.unpack_from("<4sIQQ", content, at)
        assert marker == b"\xf5gj\n"
        assert zlib.crc32(content[at + 8 : at + 24 + length]) == checksum
        found.append((at, synced, content[at + 24 : at + 24 + length]))
        at += 24 + length
    return found


def record(content):
    checked = struct.pack("<QQ", 0, len(content)) + content
    return b"\xf5gj\n" + struct.pack("<I", zlib.crc32(checked)) + checked


def test_values_come_back(path, opened):
    checkpoint = opened(Checkpoint.resume, path, FACTS)
    assert len(checkpoint) == 3
    assert ("align", 2) in checkpoint
    assert ("align", 3) not in checkpoint
    assert ("other", 2) not in checkpoint
    value = checkpoint.value("align", 2, Kept)
    assert value.value == 2
    np.testing.assert_array_equal(value.array, np.arange(2, dtype=np.float32))


def test_results_of_alignments_come_back_to_the_bit(tmp_path, rng, opened):
    pose = Pose.random(1, rng=rng, max_shift_angstrom=7.0)[0]
    result = Result(pose, 0.1 + 0.2, Status.CONVERGED, 4, np.float64(1 / 3), rng.normal(size=(6, 6)))
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", {})
    checkpoint.add("align", 0, result, Result)
    checkpoint.close()
    again = opened(Checkpoint.resume, tmp_path / "journal", {}).value("align", 0, Result)
    assert again.covariance.tobytes() == result.covariance.tobytes()
    assert again.dissimilarity == result.dissimilarity
    assert again.pose.rotation.as_quat().tobytes() == pose.rotation.as_quat().tobytes()


def test_it_goes_on_where_it_was(path, opened):
    checkpoint = opened(Checkpoint.resume, path, FACTS)
    checkpoint.add("align", 3, "three", str)
    checkpoint.close()
    again = opened(Checkpoint.resume, path, FACTS)
    assert (again.value("align", 0, Kept).value, again.value("align", 3, str)) == (0, "three")


@pytest.mark.parametrize("lost", [1, 5, 9, 60])
def test_a_torn_last_record_is_dropped_with_a_warning(path, lost, opened):
    os.truncate(path, path.stat().st_size - lost)
    with pytest.warns(TornRecord, match="not whole"):
        checkpoint = opened(Checkpoint.resume, path, FACTS)
    assert [("align", item) in checkpoint for item in range(3)] == [True, True, False]
    checkpoint.add("align", 2, "again", str)
    checkpoint.close()
    assert opened(Checkpoint.resume, path, FACTS).value("align", 2, str) == "again"


def test_a_last_record_of_which_a_page_never_came_is_dropped(path, opened):
    content = bytearray(path.read_bytes())
    content[-20:-10] = bytes(10)
    path.write_bytes(content)
    with pytest.warns(TornRecord):
        assert len(opened(Checkpoint.resume, path, FACTS)) == 2


@pytest.mark.parametrize("zeros", [1, 24, 5000])
def test_a_file_that_grew_before_its_content_came_is_cut(path, opened, zeros):
    with path.open("ab") as file:
        file.write(bytes(zeros))
    with pytest.warns(TornRecord):
        assert len(opened(Checkpoint.resume, path, FACTS)) == 3
    assert records(path.read_bytes())


def test_what_had_not_been_synced_may_be_lost_in_any_order(tmp_path, opened):
    path = tmp_path / "journal"
    checkpoint = opened(Checkpoint.create, path, FACTS)
    for item in range(4):
        checkpoint.add("align", item, "value", str)
    checkpoint.close()
    content = bytearray(path.read_bytes())
    start = records(bytes(content))[2][0]
    content[start : start + 12] = bytes(12)  # the second item; the third and the fourth are whole
    path.write_bytes(content)
    with pytest.warns(TornRecord):
        checkpoint = opened(Checkpoint.resume, path, FACTS)
    assert [("align", item) in checkpoint for item in range(4)] == [True, False, False, False]


@pytest.mark.parametrize("where", ["content", "length", "synced", "marker"])
def test_damage_of_what_had_been_synced_is_an_error(path, opened, where):
    content = bytearray(path.read_bytes())
    start = records(bytes(content))[2][0]
    content[start + {"marker": 1, "synced": 9, "length": 20, "content": 30}[where]] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"damaged at byte {start}: pass --overwrite"):
        opened(Checkpoint.resume, path, FACTS)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content", [b"", b"something else\n", b"gonio journal 2\n", b"gonio journal 3\n", b"gonio journal 3\n\x10"]
)
def test_what_is_no_checkpoint_is_an_error(tmp_path, content, opened):
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(ValueError, match="pass --overwrite"):
        opened(Checkpoint.resume, tmp_path / "journal", FACTS)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({**FACTS, "seed": 4}, "seed was 3, is 4"),
        ({**FACTS, "settings": {"limit": 30.0, "search": "local"}}, r"settings.limit was 40.0, is 30.0"),
        ({**FACTS, "settings": {"limit": 40.0}}, "settings.search was local, is not given"),
        ({**FACTS, "versions": {"gonio": "2"}}, "versions.gonio was not given, is 2"),
        ({**FACTS, "inputs": {"/a/list.star": "34cd"}}, "inputs./a/list.star was 12ab, is 34cd"),
    ],
)
def test_what_has_changed_is_named(path, facts, told, opened):
    with pytest.raises(Changed, match=told):
        opened(Checkpoint.resume, path, facts)


def test_the_file_of_an_item_that_has_changed_is_named(tmp_path, opened):
    image = tmp_path / "image.mrc"
    image.write_bytes(b"1234")
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", {})
    checkpoint.add("align", 0, "value", str, files=[image])
    checkpoint.close()
    again = opened(Checkpoint.resume, tmp_path / "journal", {})
    again.check("align", 0, [image])
    image.write_bytes(b"12345")
    with pytest.raises(Changed, match=r"image\.mrc has changed"):
        again.check("align", 0, [image])
    image.unlink()
    for now in ([image], []):
        with pytest.raises(Changed, match=r"image\.mrc is not there any more"):
            again.check("align", 0, now)


@pytest.mark.parametrize("size", [100, 2**16 + 1, 10**6])
def test_a_file_of_the_same_size_and_time_is_known_by_its_content(tmp_path, opened, size):
    image = tmp_path / "image.mrc"
    image.write_bytes(bytes(size))
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", {})
    checkpoint.add("align", 0, "value", str, files=[image])
    status = image.stat()
    image.write_bytes(bytes(size - 1) + b"x")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert image.stat().st_mtime_ns == status.st_mtime_ns
    with pytest.raises(Changed, match=r"image\.mrc has changed"):
        checkpoint.check("align", 0, [image])


def test_the_file_of_an_item_is_found_from_any_folder(tmp_path, opened, monkeypatch):
    (tmp_path / "image.mrc").write_bytes(b"1234")
    monkeypatch.chdir(tmp_path)
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", {})
    checkpoint.add("align", 0, "value", str, files=[Path("image.mrc")])
    checkpoint.close()
    monkeypatch.chdir("/")
    opened(Checkpoint.resume, tmp_path / "journal", {}).check("align", 0, [tmp_path / "image.mrc"])


@contextmanager
def files_of_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_a_good_checkpoint(tmp_path, opened):
    path = tmp_path / "journal"
    checkpoint = opened(Checkpoint.create, path, {})
    checkpoint.add("align", 0, "small", str)
    with (
        files_of_at_most(1000),
        pytest.raises(OSError, match=r"cannot write to .*journal: File too large; make room, and try again"),
    ):
        checkpoint.add("align", 1, "x" * 5000, str)
    assert ("align", 1) not in checkpoint
    checkpoint.add("align", 2, "more", str)
    checkpoint.close()
    again = opened(Checkpoint.resume, path, {})
    assert [("align", item) in again for item in range(3)] == [True, False, True]


def test_a_disk_that_is_full_only_when_synced_loses_what_was_not_synced(tmp_path, opened, monkeypatch):
    path = tmp_path / "journal"
    checkpoint = opened(Checkpoint.create, path, {})
    checkpoint.add("align", 0, "synced", str)
    checkpoint.sync()
    checkpoint.add("align", 1, "not", str)
    assert not checkpoint.is_synced

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot write to .*journal: No space left on device"):
            checkpoint.sync()
    assert [("align", item) in checkpoint for item in range(2)] == [True, False]
    checkpoint.close()
    assert len(opened(Checkpoint.resume, path, {})) == 1


def test_what_cannot_be_read_back_is_not_taken(path, opened):
    checkpoint = opened(Checkpoint.resume, path, FACTS)
    with pytest.raises(TypeError, match=r"holds no .*Fraction"):
        checkpoint.add("align", 3, Fraction(1, 3), Fraction)
    with pytest.raises(TypeError, match="an array of float64 expected, got float32"):
        checkpoint.add("align", 3, np.zeros(2, np.float32), NDArray[np.float64])
    checkpoint.close()
    assert len(opened(Checkpoint.resume, path, FACTS)) == 3


def test_records_are_as_the_head_of_the_module_says(path):
    content = path.read_bytes()
    head, *items = records(content)
    assert [json.loads(body.partition(b"\n")[0]) for _, _, body in items] == [["align", item, []] for item in range(3)]
    assert items[2][2].partition(b"\n")[2] == b'[2,["<f4",[2],"C"]]\n' + struct.pack("<2f", 0, 1)
    # The first is synced when it is made; so were two of the others before the third.
    assert [synced for _, synced, _ in items] == [items[0][0], items[0][0], items[2][0]]
    assert head[1] == 0


def test_what_was_typed_can_be_asked_and_is_not_compared(tmp_path, opened):
    path = tmp_path / "journal"
    checkpoint = Checkpoint.create(path, FACTS, command="gonio align a.star")
    checkpoint.close()
    assert command_in(path) == "gonio align a.star"
    assert opened(Checkpoint.resume, path, FACTS).path == path
    path.write_bytes(b"something else")
    assert command_in(path) == command_in(tmp_path / "nothing") == ""
