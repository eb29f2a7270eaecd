"""Files are replaced in one step, with the permissions asked for, and an error leaves nothing behind."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from vsae_search.atomic import replacing, write_bytes


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o644, None])
@pytest.mark.parametrize("durable", [True, False])
def test_content_and_permissions(tmp_path, umask, mode, durable):
    path = tmp_path / "file"
    path.write_bytes(b"an old and longer content")
    path.chmod(0o666)
    write_bytes(path, b"new", mode=mode, durable=durable)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == (0o666 & ~umask if mode is None else mode)
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_owner_can_read_by_default(tmp_path):
    write_bytes(tmp_path / "file", b"")
    assert mode_of(tmp_path / "file") == 0o600


def test_a_library_writes_the_file_itself(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.unlink()  # as one that makes its own new file does
        temporary.write_bytes(b"new")
        temporary.chmod(0o666)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert mode_of(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="no space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_durable_flushes_the_file_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def seen_fsync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def seen_replace(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_bytes(tmp_path / "file", b"new")
    assert calls == ["file", "rename", "folder"]
    calls.clear()
    write_bytes(tmp_path / "file", b"new", durable=False)
    assert calls == ["rename"]


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_flushed(tmp_path, monkeypatch, number, passes):
    fsync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    if passes:
        write_bytes(tmp_path / "file", b"new")
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_link_is_replaced_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    write_bytes(path, b"new")
    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()
