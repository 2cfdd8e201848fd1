"""Image files are found by name in folders and archives; unsafe archives are refused."""

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from data_pipelines.core.errors import CannotWrite, ConfigError, DataError
from data_pipelines.datasets import image_files
from data_pipelines.datasets.image_files import find_images

Mode = Literal["w", "w:gz"]

NAMES = ("a.jpg", "ü.jpg", "c.jpg")


def add(
    tar: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE
) -> None:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.size = len(content)
    member.linkname = "a.jpg"
    tar.addfile(member, io.BytesIO(content))


def write_tar(path: Path, mode: Mode = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        add(tar, "images", kind=tarfile.DIRTYPE)
        add(tar, "images/README", b"unwanted")
        for name in ("a.jpg", "ü.jpg", "unlisted.jpg"):
            add(tar, f"images/{name}", f"bytes of {name}".encode())
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_gives_the_wanted_files_only(tmp_path: Path, mode: Mode) -> None:
    archive = write_tar(tmp_path / "images.tar", mode)
    found = find_images(archive, NAMES, tmp_path / "deep" / "spool")
    assert sorted(found) == ["a.jpg", "ü.jpg"]
    assert found["ü.jpg"].read_bytes() == "bytes of ü.jpg".encode()
    assert sorted(path.name for path in (tmp_path / "deep" / "spool").iterdir()) == sorted(found)


def test_a_folder_gives_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "c.jpg").mkdir()
    (tmp_path / "other.jpg").write_bytes(b"1")
    assert find_images(tmp_path, NAMES, None) == {"a.jpg": tmp_path / "a.jpg"}


def test_a_link_loop_does_not_stop_the_search(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "c.jpg").write_bytes(b"1")
    (images / "a.jpg").symlink_to("ü.jpg")
    (images / "ü.jpg").symlink_to("a.jpg")
    assert sorted(find_images(images, NAMES, None)) == sorted(NAMES)


def test_names_outside_the_folder_are_not_found(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"1")
    assert find_images(images, ["../secret.jpg", str(secret), "..", ""], None) == {}


def test_case_and_unicode_form_are_ignored_without_an_exact_match(tmp_path: Path) -> None:
    for name in ("A.JPG", "u\u0308.Jpg", "c.jpg", "C.JPG"):
        (tmp_path / name).write_bytes(b"1")
    found = find_images(tmp_path, NAMES, None)
    assert [found[name].name for name in NAMES] == ["A.JPG", "u\u0308.Jpg", "c.jpg"]


def test_two_files_for_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("A.JPG", "a.JPG"):
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(DataError, match=r"A\.JPG and a\.JPG, which both match 'a\.jpg'; keep one"):
        find_images(tmp_path, NAMES, None)


Fill = Callable[[tarfile.TarFile], None]


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda tar: add(tar, "images/a.jpg", kind=tarfile.SYMTYPE), "a link or a device"),
        (lambda tar: add(tar, "x", kind=tarfile.LNKTYPE), "a link or a device"),
        (lambda tar: add(tar, "x", kind=tarfile.FIFOTYPE), "a link or a device"),
        (lambda tar: add(tar, "x", kind=tarfile.CHRTYPE), "a link or a device"),
        (lambda tar: add(tar, "../a.jpg", b"x"), "'../a.jpg', which leads outside"),
        (lambda tar: add(tar, "images/../../a.jpg", b"x"), "leads outside"),
        (lambda tar: add(tar, "/etc/a.jpg", b"x"), "'/etc/a.jpg', which leads outside"),
        (lambda tar: add(tar, "big", bytes(2000)), "'big' of 2,000 bytes, too many for an image"),
        (lambda tar: [add(tar, f"{n}") for n in range(9)], "more than 8 members"),
        (lambda tar: [add(tar, name, b"x") for name in ("1/a.jpg", "2/A.jpg")], "'A.jpg' twice"),
    ],
)
def test_unsafe_members_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: Fill, message: str
) -> None:
    monkeypatch.setattr(image_files, "MAX_MEMBER_BYTES", 1000)
    monkeypatch.setattr(image_files, "MAX_MEMBERS", 8)
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        fill(tar)
    with pytest.raises(DataError) as refusal:
        find_images(archive, NAMES, tmp_path / "spool")
    line = str(refusal.value)
    assert message in line and line.startswith(f"{archive} holds") and "unpack it" in line
    assert not (tmp_path / "a.jpg").exists()


def test_as_many_members_as_allowed_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MAX_MEMBERS", 8)
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        for n in range(8):
            add(tar, f"{n}")
    find_images(archive, NAMES, tmp_path / "spool")


def header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.USTAR_FORMAT)


def pax(**lines: str) -> bytes:
    """Makes a pax header; each line begins with its own length."""
    content = b""
    for key, value in lines.items():
        line = f" {key.replace('_', '.')}={value}\n".encode()
        content += f"{len(line) + 2:02}".encode() + line
    padding = b"\0" * (-len(content) % 512)
    return header("pax", tarfile.XHDTYPE, len(content)) + content + padding


def extended(sparse: bytes) -> bytes:
    """Makes the old header of a sparse file whose map continues in the next block."""
    block = bytearray(sparse)
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SPARSE = pax(GNU_sparse_major="1", GNU_sparse_minor="0") + header("x", tarfile.REGTYPE, 2**20)
HEADERS = {
    "GNU long name": header("x", tarfile.GNUTYPE_LONGNAME, 2**30),
    "GNU long link": header("x", tarfile.GNUTYPE_LONGLINK, 2**30),
    "pax header": header("x", tarfile.XHDTYPE, 2**30),
    "pax header of all members": header("x", tarfile.XGLTYPE, 2**30),
    "old map of a sparse file": extended(header("x", tarfile.GNUTYPE_SPARSE, 0)),
    "map of a sparse file": SPARSE,
    "unknown": header("x", b"9", 2**30),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_any_size_take_little_memory(tmp_path: Path, case: str) -> None:
    archive = tmp_path / "images.tar.gz"
    with gzip.open(archive, "wb", 1) as file:
        file.write(HEADERS[case])
        for _ in range(32):
            file.write(b"1" * 2**20)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"unpack it yourself|is not a complete"):
        find_images(archive, NAMES, tmp_path / "spool")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 * 2**20


def test_a_chain_of_headers_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "images.tar"
    archive.write_bytes(pax(comment="x") * 2000 + header("a.jpg", tarfile.REGTYPE, 0))
    with pytest.raises(DataError, match="is not a complete"):
        find_images(archive, NAMES, tmp_path / "spool")


@pytest.mark.parametrize("content", [b"", b"no archive" * 100, bytes(5)])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "images.tar"
    archive.write_bytes(content)
    with pytest.raises(
        DataError, match=r"images\.tar is not a complete \.tar or \.tar\.gz archive .*download it"
    ):
        find_images(archive, NAMES, tmp_path / "spool")


@pytest.mark.parametrize("kept", [60, 200, -1])
def test_a_truncated_archive_is_refused(tmp_path: Path, kept: int) -> None:
    archive = write_tar(tmp_path / "images.tgz", "w:gz")
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"is not a complete \.tar or \.tar\.gz archive"):
        find_images(archive, NAMES, tmp_path / "spool")


def test_an_archive_with_a_wrong_crc_is_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "images.tgz", "w:gz")
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="CRC check failed"):
        find_images(archive, NAMES, tmp_path / "spool")


def test_an_archive_needs_a_folder_to_unpack_it(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "images.tar")
    with pytest.raises(ConfigError, match="no folder to unpack it into"):
        find_images(archive, NAMES, None)
    with pytest.raises(CannotWrite, match="choose"):
        find_images(archive, NAMES, archive / "spool")


def test_an_absent_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a folder nor an archive"):
        find_images(tmp_path / "absent", NAMES, None)
