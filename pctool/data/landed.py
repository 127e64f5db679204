"""Official files kept as they are (STL-10, LSUN), with a manifest of their sizes and SHA-256 sums beside them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from pctool import files
from pctool.data.sources import GZIP_MAGIC, TAR_ERRORS
from pctool.errors import InputError, MissingError
from pctool.picture_files import ZIP_ERRORS

BLOCK = 1 << 20  # bytes copied at a time
ZIP_MAGIC = b"PK"


@dataclass(frozen=True)
class FilePin:
    """What is published of an official file: its size in bytes and its MD5, as far as they are."""

    size: int | None = None
    md5: str | None = None


class LandedFile(BaseModel):
    """A file as it was when it landed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Manifest(BaseModel):
    """manifest.json: what landed. Sums that nobody publishes are those of the first import."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["pctool-data"] = "pctool-data"
    version: Literal[1] = 1
    dataset: str
    files: dict[str, LandedFile]


def read_manifest(folder: Path) -> Manifest:
    """Raises MissingError where there is none, InputError where it is damaged or unreadable."""
    path = folder / "manifest.json"
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path} is not there") from None
    except OSError as error:
        raise files.read_error(path, error) from error
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Whole or not at all. Raises WriteError."""
    files.write_text(folder / "manifest.json", manifest.model_dump_json(indent=2) + "\n")


def check(folder: Path, names: tuple[str, ...], *, full: bool) -> Manifest:
    """Compares the files with the manifest: sizes, and with `full` every byte.

    Raises MissingError where a file or the manifest is not here, InputError where one is damaged or unreadable.
    """
    manifest = read_manifest(folder)
    for name in names:
        path = folder / name
        known = manifest.files.get(name)
        try:
            size = path.stat().st_size
            if known is None:
                raise FileNotFoundError
            if size != known.size:
                raise InputError(f"{path} is damaged: {size:,} bytes, expected {known.size:,}")
            if full and (found := files.sha256_of(path)) != known.sha256:
                raise InputError(f"{path} is damaged: SHA-256 {found}, expected {known.sha256}")
        except FileNotFoundError:
            raise MissingError(f"{path} is not there") from None
        except OSError as error:
            raise files.read_error(path, error) from error
    return manifest


def land(
    source: Path,
    folder: Path,
    pins: Mapping[str, FilePin],
    *,
    link: bool,
    advance: Callable[[int], object],
    verify: Callable[[Path, str], object],
) -> dict[str, LandedFile]:
    """Copies the files that `pins` names from `source` into `folder`, each whole, verified and renamed.

    `source` is a folder that holds them, or holds a folder that does, or a tar or ZIP archive, or one of the
    files; with `link` (for a folder or a file) they stay where they are and get a symbolic link. One that lies in its
    place already is left there. `advance` counts bytes; `verify` looks at each file, named for a message, before
    anything in `folder` changes. The caller holds the lock of `folder`. Raises InputError for a file that is missing,
    cut short, or not the official one, and WriteError; after an InputError all is as it was.
    """
    landed: dict[str, LandedFile] = {}
    links: dict[Path, Path] = {}
    with contextlib.ExitStack() as renamed_at_the_end:
        for name, stream, path in _members(source, pins):
            if name in landed:
                raise InputError(f"{source} holds {name} twice")
            target, pin, what = folder / name, pins[name], f"{name} in {source}"
            in_place = path is not None and _is_same(path, target) and (link or not target.is_symlink())
            if path and (link or in_place):
                record, md5 = _copy(stream, None, advance)
                _check_pin(what, pin, record, md5)
                verify(path, what)
                if not in_place:
                    links[target] = path
            else:
                temporary = renamed_at_the_end.enter_context(files.write_beside(target, pin.size))
                with temporary.open("wb") as file:
                    record, md5 = _copy(stream, file, advance)
                _check_pin(what, pin, record, md5)
                verify(temporary, what)
            landed[name] = record
        missing = [name for name in pins if name not in landed]
        if missing:
            raise InputError(f"{source} lacks {', '.join(missing)}")
    for target, path in links.items():
        _link(path, target)
    return landed


def record_of(path: Path) -> LandedFile:
    """Size and SHA-256 of a file."""
    return LandedFile(size=path.stat().st_size, sha256=files.sha256_of(path))


def _is_same(path: Path, target: Path) -> bool:
    try:
        return target.samefile(path)
    except OSError:
        return False


def _link(path: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.link.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.resolve())
        temporary.replace(target)
    except OSError as error:
        raise files.write_error(target, error) from error


def _copy(source: BinaryIO, target: BinaryIO | None, advance: Callable[[int], object]) -> tuple[LandedFile, str]:
    """Copies to the end; returns size and SHA-256, and the MD5 that some publish."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    while data := _block(source):
        if target is not None:
            target.write(data)
        sha256.update(data)
        md5.update(data)
        size += len(data)
        advance(len(data))
    return LandedFile(size=size, sha256=sha256.hexdigest()), md5.hexdigest()


def _block(source: BinaryIO) -> bytes:
    try:
        return source.read(BLOCK)
    except (*TAR_ERRORS, *ZIP_ERRORS) as error:  # not to be taken for an error of writing
        raise InputError(f"cannot read {getattr(source, 'name', 'the archive')}: {error}") from error


def _check_pin(what: str, pin: FilePin, record: LandedFile, md5: str) -> None:
    if pin.size is not None and record.size != pin.size:
        raise InputError(f"{what} is not the official file: {record.size:,} bytes, expected {pin.size:,}")
    if pin.md5 is not None and md5 != pin.md5:
        raise InputError(f"{what} is not the official file: MD5 {md5}, expected {pin.md5}")


def _members(source: Path, names: Mapping[str, object]) -> Iterator[tuple[str, BinaryIO, Path | None]]:
    """Name, stream and (where it is a file of its own) path of each file that `names` asks for."""
    try:
        if source.is_dir() or source.name in names:
            yield from _in_folder(source, names)
            return
        with source.open("rb") as file:
            magic = file.read(2)
            file.seek(0)
            if magic == ZIP_MAGIC:
                yield from _in_zip(file, names)
            else:
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if magic == GZIP_MAGIC else file
                with tarfile.open(fileobj=stream, mode="r|") as archive:
                    for info in archive:
                        if Path(info.name).name in names and info.isreg() and not info.issparse():
                            yield Path(info.name).name, cast(BinaryIO, archive.extractfile(info)), None
    except (*TAR_ERRORS, *ZIP_ERRORS) as error:
        raise InputError(f"cannot read {source} as a folder, a tar archive or a ZIP: {error}") from error


def _in_folder(source: Path, names: Mapping[str, object]) -> Iterator[tuple[str, BinaryIO, Path]]:
    """The files themselves, or else those one folder below; two of a name are refused before any is read."""
    paths = [source]
    if source.is_dir():
        paths = [source / name for name in names if (source / name).is_file()]
        paths = paths or sorted(path for name in names for path in source.glob(f"*/{name}") if path.is_file())
    for name in names:
        folders = [str(path.parent) for path in paths if path.name == name]
        if len(folders) > 1:
            raise InputError(f"{source} holds {name} more than once ({', '.join(folders)}); name one of these folders")
    for path in paths:
        with path.open("rb") as file:
            yield path.name, file, path


def _in_zip(file: BinaryIO, names: Mapping[str, object]) -> Iterator[tuple[str, BinaryIO, None]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if Path(info.filename).name in names:
                with archive.open(info) as stream:
                    yield Path(info.filename).name, cast(BinaryIO, stream), None
