"""Files are whole or absent: kills at every operation, readers beside writers, full disks, read-only folders."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infodcl_geo.errors import FileError, InfodclGeoError
from infodcl_geo.files import (
    locked,
    make_folder,
    prune_temporaries,
    read_folder,
    shown,
    write_atomically,
    write_folder_atomically,
)


def test_content_mode_and_no_leftovers(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", b"one")
        write_atomically(tmp_path / "a", lambda file: file.write(b"two"))
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_failing_writer_leaves_the_old_content(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"old")

    def failing(file: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write_atomically(tmp_path / "a", failing)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_refusals_are_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "gone" / "a", "not there"),
        (tmp_path / ("x" * 300), "too long"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path, "no regular file"),
        (Path("/dev/full"), "no regular file"),
    ):
        with pytest.raises(FileError, match=words) as caught:
            write_atomically(path, b"")
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, InfodclGeoError)
    assert Path("/dev/full").is_char_device()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match="a file of that name"):
        make_folder(tmp_path / "file")
    with pytest.raises(FileError, match="no folder"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(FileError, match="plain file name"):
        write_folder_atomically(tmp_path, {"../a": b""})
    with pytest.raises(FileError, match="not there"):
        read_folder(tmp_path)
    assert shown("a\nb\x1b[31m\udcff") == r"a\nb\x1b[31m\udcff"


@pytest.mark.parametrize(
    ("code", "words"), [("ENOSPC", "disk is full"), ("EROFS", "read-only"), ("EIO", "disk reports")]
)
@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_refusing_system_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str, operation: str
) -> None:
    write_folder_atomically(tmp_path, {"a.bin": b"old"}, about={"n": 1})

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(os, operation, refuse)
    with pytest.raises(FileError, match=words):
        write_folder_atomically(tmp_path, {"a.bin": b"new"}, about={"n": 2})
    monkeypatch.undo()
    found = read_folder(tmp_path)
    assert (found.about, found.files) == ({"n": 1}, {"a.bin": b"old"})
    assert not [name for name in os.listdir(tmp_path) if ".tmp-" in name]


@given(
    st.dictionaries(st.sampled_from(["a.bin", "b.bin", "weights.safetensors", "plain"]), st.binary(max_size=40)),
    st.dictionaries(st.sampled_from(["a.bin", "b.bin", "plain"]), st.binary(max_size=40)),
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3)),
)
@settings(max_examples=40, deadline=None)
def test_a_generation_reads_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], two: dict[str, bytes], about: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("g") / "made"
    write_folder_atomically(folder, one)
    assert read_folder(folder).files == one
    (folder / "a-note.txt").write_text("another's")
    write_folder_atomically(folder, {**one, **two}, about=about)
    found = read_folder(folder)
    assert (found.about, found.files) == (about, {**one, **two})
    # One file each, the index, the lock, and what was there.
    assert len(os.listdir(folder)) == len({**one, **two}) + 3


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_folder_is_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("g")
    write_folder_atomically(folder, {"a.bin": b"some content", "b.bin": b"more"}, about={"x": [1, 2]})
    before = read_folder(folder)
    name = data.draw(st.sampled_from(sorted(n for n in os.listdir(folder) if n != ".lock")))
    content = bytearray((folder / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "longer", "gone"]))
    if how == "gone":
        (folder / name).unlink()
    else:
        if how == "flip":
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            content = content[:position]
        else:
            content += b"\0" * 5
        (folder / name).write_bytes(content)
    with suppress(FileError):
        found = read_folder(folder)
        # A change of the description or of the layout of the index alone: the data are those written.
        assert name == "index.json"
        assert list(found.files.values()) == list(before.files.values())


def test_hostile_indexes(tmp_path: Path) -> None:
    entry = {"file": "../secret", "sha256": "0" * 64, "bytes": 3}
    for text in (
        json.dumps({"format": 1, "about": {}, "files": {"a": entry}}),
        json.dumps({"format": 1, "about": {}, "files": {"a": {**entry, "file": "a", "bytes": -1}}}),
        json.dumps({"format": 1, "about": [], "files": {}}),
        json.dumps({"format": 2, "about": {}, "files": {}}),
        "[" * 100_000,
        "null",
        "",
    ):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(FileError, match="no index"):
            read_folder(tmp_path)
    (tmp_path / "index.json").unlink()
    os.mkfifo(tmp_path / "index.json")
    with pytest.raises(FileError, match="no regular file"):
        read_folder(tmp_path)


def test_readers_beside_writers_never_see_a_mixture(tmp_path: Path) -> None:
    write_folder_atomically(tmp_path, {"a.bin": b"0", "b.bin": b"0"}, about={"n": "0"})
    stop = threading.Event()

    def write(start: int) -> None:
        number = start
        while not stop.is_set():
            number += 2
            content = str(number).encode()
            write_folder_atomically(tmp_path, {"a.bin": content, "b.bin": content}, about={"n": str(number)})

    writers = [threading.Thread(target=write, args=(k,)) for k in range(2)]
    for writer in writers:
        writer.start()
    seen = set()
    reads = 0
    # Where an fsync is slow, 300 reads may end before the first write: read on until several generations were seen.
    limit = time.monotonic() + 120
    try:
        while (reads < 300 or len(seen) < 5) and time.monotonic() < limit:
            reads += 1
            found = read_folder(tmp_path)
            assert {found.about["n"].encode()} == set(found.files.values())
            seen.add(found.about["n"])
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert len(seen) >= 5


KILLED = """
import os, sys
from infodcl_geo import files
left = int(sys.argv[2])
def counted(real):
    def call(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return real(*arguments, **named)
    return call
for name in ("open", "replace", "fsync", "fdopen", "close", "listdir", "unlink"):
    setattr(files.os, name, counted(getattr(os, name)))
files.write_folder_atomically(sys.argv[1], {"a.bin": b"new", "b.bin": b"new"}, about={"n": "new"})
"""


def test_killed_at_every_file_operation(tmp_path: Path) -> None:
    kills = 0
    for operations in range(200):
        folder = tmp_path / str(operations)
        write_folder_atomically(folder, {"a.bin": b"old", "b.bin": b"old"}, about={"n": "old"})
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(operations)], check=False)
        found = read_folder(folder)
        assert set(found.files.values()) in ({b"old"}, {b"new"})
        assert {found.about["n"].encode()} == set(found.files.values())
        write_folder_atomically(folder, {"a.bin": b"later", "b.bin": b"later"})
        assert set(read_folder(folder).files.values()) == {b"later"}
        # The killed writer left nothing for good.
        assert len(os.listdir(folder)) == 4
        if done.returncode == 0:
            break
        kills += 1
    assert done.returncode == 0
    assert kills > 20


def test_a_full_disk(tmp_path: Path) -> None:
    # A limit on the size of files stands for a full disk: no test may mount one.
    code = """
import resource, signal, sys
from infodcl_geo.errors import FileError
from infodcl_geo.files import read_folder, write_folder_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write_folder_atomically(sys.argv[1], {"a.bin": b"old"})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_folder_atomically(sys.argv[1], {"a.bin": bytes(10_000)})
except FileError as error:
    print(error)
assert read_folder(sys.argv[1]).files == {"a.bin": b"old"}
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "larger than a file may be" in done.stdout
    assert done.stdout.count("\n") == 1
    assert sorted(os.listdir(tmp_path))[0] == ".lock"
    assert len(os.listdir(tmp_path)) == 3


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"a.0123abcd.tmp-{dead.pid}", f"a.0123abcd.tmp-{os.getpid()}", "a.tmp-notes", "b"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert prune_temporaries(tmp_path, "b") == 0
    assert prune_temporaries(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
    assert prune_temporaries(tmp_path / "gone") == 0


def test_a_lock_keeps_others_out_and_ends_with_its_process(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    with locked(table), pytest.raises(FileError, match="changed by another process"), locked(table, wait=False):
        pass
    with locked(table, wait=False):
        pass
    code = "import os,sys; from infodcl_geo.files import locked\nwith locked(sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(table)], check=False)
    with locked(table, wait=False):
        pass
    with pytest.raises(FileError, match="not there"), locked(tmp_path / "gone" / "table.csv"):
        pass


def test_two_processes_that_lock_lose_nothing(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from infodcl_geo.files import locked, write_atomically
path = Path(sys.argv[1])
for _ in range(40):
    with locked(path):
        count = int(path.read_text()) if path.exists() else 0
        write_atomically(path, str(count + 1).encode())
"""
    path = tmp_path / "count"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert path.read_text() == "120"
