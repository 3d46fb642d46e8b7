"""What is put down comes back, whatever happened to the file; what has changed is named."""

from __future__ import annotations

import os
import pickle
import resource
import struct
import zlib

import numpy as np
import pytest

from gonio import Pose, Result
from gonio.lm import Status
from gonio.run.journal import RECORD, Changed, Journal, TornRecord

FACTS = {"settings": {"limit": 40.0, "search": "local"}, "seed": 3, "inputs": {"/a/list.star": "12ab"}}


@pytest.fixture
def opened():
    """Opens journals, and closes them in the end."""
    made = []

    def open_one(how, *arguments):
        made.append(how(*arguments))
        return made[-1]

    yield open_one
    for journal in made:
        journal.close()


@pytest.fixture
def path(tmp_path, opened):
    """A journal of three items."""
    journal = opened(Journal.create, tmp_path / "journal", FACTS)
    for item in range(3):
        journal.add("align", item, {"value": item, "array": np.arange(item, dtype=np.float32)})
    journal.close()
    return tmp_path / "journal"


def test_values_come_back(path, opened):
    journal = opened(Journal.resume, path, FACTS)
    assert len(journal) == 3
    assert ("align", 2) in journal
    assert ("align", 3) not in journal
    assert ("other", 2) not in journal
    value = journal.value("align", 2)
    assert value["value"] == 2
    np.testing.assert_array_equal(value["array"], np.arange(2, dtype=np.float32))


def test_results_of_alignments_come_back_to_the_bit(tmp_path, rng, opened):
    pose = Pose.random(1, rng=rng, max_shift_angstrom=7.0)[0]
    result = Result(pose, 0.1 + 0.2, Status.CONVERGED, 4, np.float64(1 / 3), rng.normal(size=(6, 6)))
    journal = opened(Journal.create, tmp_path / "journal", {})
    journal.add("align", 0, result)
    journal.close()
    again = opened(Journal.resume, tmp_path / "journal", {}).value("align", 0)
    assert pickle.dumps(again.covariance.tobytes()) == pickle.dumps(result.covariance.tobytes())
    assert again.dissimilarity == result.dissimilarity
    assert again.pose.rotation.as_quat().tobytes() == pose.rotation.as_quat().tobytes()


def test_it_goes_on_where_it_was(path, opened):
    journal = opened(Journal.resume, path, FACTS)
    journal.add("align", 3, "three")
    journal.close()
    again = opened(Journal.resume, path, FACTS)
    assert [again.value("align", item) for item in (0, 3)] == [{"value": 0, "array": pytest.approx([])}, "three"]


@pytest.mark.parametrize("lost", [1, 5, 9, 60])
def test_a_torn_last_record_is_dropped_with_a_warning(path, lost, opened):
    os.truncate(path, path.stat().st_size - lost)
    with pytest.warns(TornRecord, match="not whole"):
        journal = opened(Journal.resume, path, FACTS)
    assert [("align", item) in journal for item in range(3)] == [True, True, False]
    journal.add("align", 2, "again")
    journal.close()
    assert opened(Journal.resume, path, FACTS).value("align", 2) == "again"


def test_a_last_record_of_which_a_page_never_came_is_dropped(path, opened):
    content = bytearray(path.read_bytes())
    content[-20:-10] = bytes(10)
    path.write_bytes(content)
    with pytest.warns(TornRecord):
        assert len(opened(Journal.resume, path, FACTS)) == 2


def test_damage_before_the_last_record_is_an_error(path, opened):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged at byte \d+: pass --overwrite"):
        opened(Journal.resume, path, FACTS)


@pytest.mark.parametrize("content", [b"", b"something else\n", b"gonio journal 1\n", b"gonio journal 1\n\x10"])
def test_what_is_no_journal_is_an_error(tmp_path, content, opened):
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(ValueError, match="pass --overwrite"):
        opened(Journal.resume, tmp_path / "journal", FACTS)


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
        opened(Journal.resume, path, facts)


def test_the_file_of_an_item_that_has_changed_is_named(tmp_path, opened):
    image = tmp_path / "image.mrc"
    image.write_bytes(b"1234")
    journal = opened(Journal.create, tmp_path / "journal", {})
    journal.add("align", 0, "value", source=image)
    journal.close()
    assert len(opened(Journal.resume, tmp_path / "journal", {})) == 1
    image.write_bytes(b"12345")
    with pytest.raises(Changed, match=r"image\.mrc has changed"):
        opened(Journal.resume, tmp_path / "journal", {})


def test_a_full_disk_is_told_and_leaves_a_good_journal(tmp_path, opened):
    path = tmp_path / "journal"
    journal = opened(Journal.create, path, {})
    journal.add("align", 0, "small")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write to .*journal: .*; make room, then go on with --resume"):
            journal.add("align", 1, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal.add("align", 2, "more")
    journal.close()
    again = opened(Journal.resume, path, {})
    assert [("align", item) in again for item in range(3)] == [True, False, True]


def test_a_journal_runs_no_code(tmp_path, opened):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "was here"),)

    path = tmp_path / "journal"
    opened(Journal.create, path, {}).close()
    content = pickle.dumps(("align", 0, None, Evil()))
    with path.open("ab") as file:
        file.write(RECORD.pack(len(content), zlib.crc32(content)) + content)
    with pytest.raises(ValueError, match=r"holds no posix\.system"):
        opened(Journal.resume, path, {})
    assert not (tmp_path / "was here").exists()


def test_records_are_as_the_head_of_the_module_says(path):
    content, at, items = path.read_bytes(), len(b"gonio journal 1\n"), []
    while at < len(content):
        length, checksum = struct.unpack_from("<II", content, at)
        body = content[at + 8 : at + 8 + length]
        assert zlib.crc32(body) == checksum
        items.append(body)
        at += 8 + length
    assert [pickle.loads(body)[1] for body in items[1:]] == [0, 1, 2]
