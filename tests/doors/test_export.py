"""Unpacking an export: whatever answers as the gateway, nothing is written outside the folder or over a file."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from muniment.doors.cli.client import Failure
from muniment.doors.cli.evidence import _unpack


def _unpacked(out: Path, *members: tarfile.TarInfo) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for member in members:
            member.size = 3 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"abc") if member.isreg() else None)
    data.seek(0)
    with tarfile.open(fileobj=data, mode="r|") as archive:
        for member in archive:
            _unpack(archive, member, out)


def test_a_file_lands_in_its_folder(tmp_path: Path) -> None:
    _unpacked(tmp_path / "copy", tarfile.TarInfo("log/records.jsonl"))
    assert (tmp_path / "copy" / "log" / "records.jsonl").read_bytes() == b"abc"


@pytest.mark.parametrize("name", ["../outside", "log/../../outside", "/outside", "..", "log/.."])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Failure, match="no evidence has"):
        _unpacked(tmp_path / "copy", tarfile.TarInfo(name))
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_only_regular_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("log")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(Failure):
        _unpacked(tmp_path / "copy", member)
    assert not (tmp_path / "copy" / "log").exists()


def test_a_file_is_never_written_twice(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        _unpacked(tmp_path / "copy", tarfile.TarInfo("key"), tarfile.TarInfo("key"))
