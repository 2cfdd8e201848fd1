"""Hostile archives and folders, and special files in place of a data set's own.

A command may write nothing outside its own --out, and what it accepts must pass `data check`.
"""

import functools
import gzip
import io
import os
import socket
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from gap_jax.prediction.sources import Refused, find_sources
from tests.campaigns.fuzzing import data_files
from tests.campaigns.fuzzing.case import Case, Make, Rng, choose, copy_original, list_below
from tests.campaigns.fuzzing.changes import BYTES
from tests.campaigns.fuzzing.data_files import FILES, find_refusal, write_mpii
from tests.campaigns.fuzzing.shards import write_images
from tests.support.tiny_data import write_photo

HUGE_BYTES = 2**40  # of a sparse file, which takes no room
BOMB_BYTES = 2**28  # of zeros in a small file
MANY = 3000
NAMES = (
    "\x1b[31mred.jpg", "line\nfeed.jpg", "\u202egpj.exe", "=cmd().jpg", "a" * 250 + ".jpg", " .jpg",
    "\\..\\x.jpg", "-rf.jpg", "\u2028.jpg", "CON.jpg", os.fsdecode(b"\xff\xfe.jpg"),
)  # fmt: skip


def fill_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(HUGE_BYTES)


def open_socket(path: Path) -> None:
    """Makes a socket; its path may not be long, so it is made from its folder."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)
        os.close(before)


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "socket": open_socket,
    "folder": Path.mkdir,
    "huge": fill_sparse,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty device": lambda path: path.symlink_to("/dev/null"),
    "link loop": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("absent"),
    "link to its folder": lambda path: path.symlink_to("."),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(2**16)),
}


def make_special(rng: Rng, folder: Path) -> Case:
    """Puts a special file in the place of a file that a command reads."""
    kind = choose(rng, [*FILES.values()])
    data = copy_original(folder, kind.write)
    path = choose(rng, sorted(path for path in data.rglob("*") if path.is_file()))
    path.unlink()
    name = choose(rng, [*SPECIAL])
    SPECIAL[name](path)
    return guard(
        f"{name} as {path.name}", folder, functools.partial(data_files.run, kind.words, data)
    )


def make_special_shard(rng: Rng, folder: Path) -> Case:
    """Puts a special file in the place of a part of a prepared data set."""
    data = copy_original(folder, write_images)
    path = choose(rng, [data / "manifest.json", *sorted((data / "records").iterdir())])
    path.unlink()
    name = choose(rng, [*SPECIAL])
    SPECIAL[name](path)
    return guard(f"{name} as {path.name}", folder, functools.partial(data_files.run, (), data))


def guard(mutation: str, folder: Path, read: Callable[[], Path]) -> Case:
    """Makes a case of a command, which may write below its --out and nowhere else."""
    outside = folder.with_name("outside.jpg")
    write_photo(outside, 1)
    before = list_below(folder), outside.read_bytes()

    def find_damage(out: Path) -> str:
        allowed = [out, out.with_name(f"{out.name}.rejects.csv")]
        found = {
            path for path in list_below(folder) if path not in allowed and out not in path.parents
        }
        if found - before[0] or outside.read_bytes() != before[1]:
            return f"it wrote {found - before[0]}"
        return find_refusal(out)

    return Case(mutation, read, find_damage)


# archives of images


def tar_of(members: Sequence[tuple[tarfile.TarInfo, bytes]], *, compress: bool) -> bytes:
    """Writes a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if compress else "w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def member(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    """Describes a member."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def list_images(data: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Makes the members of the images."""
    contents = [(path.name, path.read_bytes()) for path in sorted((data / "images").iterdir())]
    return [(member(f"images/{name}", len(content)), content) for name, content in contents]


def spoil_members(members: list[tuple[tarfile.TarInfo, bytes]], rng: Rng) -> str:
    """Adds or changes members; returns what was done."""
    at = int(rng.integers(len(members)))
    info, content = members[at]
    wanted = info.name
    hostile: dict[str, tuple[tarfile.TarInfo, bytes]] = {
        "link outside": (member(wanted, 0, tarfile.SYMTYPE, "/etc/passwd"), b""),
        "hard link outside": (member(wanted, 0, tarfile.LNKTYPE, "../outside.jpg"), b""),
        "pipe": (member(wanted, 0, tarfile.FIFOTYPE), b""),
        "device": (member(wanted, 0, tarfile.CHRTYPE), b""),
        "parent": (member(f"../{Path(wanted).name}", len(content)), content),
        "outside": (member("../outside.jpg", 3), b"out"),
        "absolute": (member(f"/{Path(wanted).name}", len(content)), content),
        "twice": (member(f"other/{Path(wanted).name}", len(content)), content),
        "control characters": (member(f"images/{choose(rng, NAMES)}", len(content)), content),
        "deep": (member("d/" * 2000 + Path(wanted).name, len(content)), content),
        "long name": (member("n" * 70_000, 1), b"n"),
        "zeros": (member(wanted, 2**26), bytes(2**26)),
        "too large": (member("images/x.jpg", 2**26 + 1), bytes(2**26 + 1)),
    }
    name = choose(rng, [*hostile, "many"])
    if name == "many":
        members[at:at] = [(member(f"images/{index}.jpg"), b"") for index in range(MANY)]
    elif rng.random() < 0.5:
        members[at] = hostile[name]
    else:
        members.insert(at, hostile[name])
    return name


def make_archive(change: str, compress: bool, rng: Rng, folder: Path) -> Case:
    """Makes an archive of MPII's images with hostile members or mutated bytes."""
    data = copy_original(folder, write_mpii)
    members = list_images(data)
    name = spoil_members(members, rng) if change == "members" else choose(rng, [*BYTES])
    content = tar_of(members, compress=compress)
    if change == "bytes":
        content = BYTES[name](content, rng)
    elif change == "header":
        name, content = choose(rng, [*HEADERS.items()])
        content = gzip.compress(content + bytes(BOMB_BYTES), 1)
    (data / "images.tar").write_bytes(content)
    words = [word.replace("/images", "/images.tar") for word in data_files.MPII]
    return guard(name, folder, functools.partial(data_files.run, words, data))


HEADERS = {
    name: member("x", 2**33, kind).tobuf(tarfile.GNU_FORMAT)
    for name, kind in {
        "long name": tarfile.GNUTYPE_LONGNAME,
        "long link": tarfile.GNUTYPE_LONGLINK,
        "pax header": tarfile.XHDTYPE,
        "global pax header": tarfile.XGLTYPE,
        "sparse file": tarfile.GNUTYPE_SPARSE,
        "unknown": b"9",
        "file": tarfile.REGTYPE,
    }.items()
}


# folders of photographs


def add_hostile(root: Path, rng: Rng) -> str:
    """Adds something hostile to a folder of photographs; returns what it is."""
    place = root / choose(rng, ("ant", "bee"))
    name = choose(
        rng, [*SPECIAL, "names", "deep", "many", "link outside", "folder outside", "bombs"]
    )
    match name:
        case "names":
            for index, each in enumerate(NAMES):
                write_photo(place / "photo.jpg", index)
                (place / "photo.jpg").rename(place / each)
        case "deep":
            dig(place)
        case "many":
            for index in range(MANY):
                (place / f"{index}.jpg").write_bytes(b"")
        case "link outside":
            (place / "x.jpg").symlink_to("/etc/passwd")
        case "folder outside":
            (place / "x").symlink_to("../..")
        case "bombs":
            for index, size in enumerate(((7000, 7000), (50_000, 1000), (65_000, 65_000))):
                (place / f"{index}.png").write_bytes(png_of_zeros(*size))
        case _:
            SPECIAL[name](place / "x.jpg")
    return name


def dig(place: Path, levels: int = 30) -> None:
    """Makes folders deeper than the longest path."""
    at = os.open(place, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 200, dir_fd=at)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("x.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)


def png_of_zeros(width: int, height: int) -> bytes:
    """Makes a black PNG of one bit for each pixel."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    header = bytearray(file.getvalue()[8:33])
    header[8:16] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header[21:] = zlib.crc32(header[4:21]).to_bytes(4, "big")
    rows = zlib.compress(bytes(min((1 + (width + 7) // 8) * height, BOMB_BYTES)), 1)
    chunk = b"IDAT" + rows
    body = len(rows).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return file.getvalue()[:8] + header + body + file.getvalue()[-12:]


def make_folder(rng: Rng, folder: Path) -> Case:
    """Makes a hostile folder of photographs for `data prepare folder`."""
    data = copy_original(folder, data_files.write_photos)
    name = add_hostile(data / "photos", rng)
    words = ("folder", "--root", "{}/photos")
    return guard(name, folder, functools.partial(data_files.run, words, data))


def make_predicted(rng: Rng, folder: Path) -> Case:
    """Makes a hostile folder of photographs for `predict`, which answers each other one."""
    data = copy_original(folder, data_files.write_photos) / "photos"
    name = add_hostile(data, rng)
    photos = {str(path) for path in data.rglob("[ab]*_*.jpg")}

    def read() -> list[str]:
        sources = [*find_sources([str(data)])]
        answered = []
        for each in sources:
            if not isinstance(each, Refused):
                try:
                    each.load()
                except data_files.DataError:
                    continue
                answered.append(each.name)
        return answered

    return Case(name, read, lambda answered: ", ".join(photos - set(answered)))


KINDS: dict[str, Make] = {
    "tar archive, hostile members": functools.partial(make_archive, "members", False),
    "tar.gz archive, hostile members": functools.partial(make_archive, "members", True),
    "tar archive, mutated": functools.partial(make_archive, "bytes", False),
    "tar.gz archive, mutated": functools.partial(make_archive, "bytes", True),
    "tar.gz archive, huge header": functools.partial(make_archive, "header", True),
    "folder of photographs, `data prepare`": make_folder,
    "folder of photographs, `predict`": make_predicted,
    "special file in a data set": make_special,
    "special file in prepared data": make_special_shard,
}
