"""The images of a folder or of a ZIP: every file is looked at once before any is scored, so that counts are known."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pctool import picture_files
from pctool.errors import InputError
from pctool.files import printable

ALLOWED = "a folder of images, a .zip or a .npz"
GREY_MODES = frozenset({"1", "L", "LA"})
READERS = 4  # threads; decoders release the GIL


@dataclass(frozen=True)
class _Seen:
    """What the first look at a file found; `problem` instead of the rest where it cannot be used."""

    name: str
    sha256: str = ""
    mode: str = ""
    transparent: bool = False
    size: tuple[int, int] = (0, 0)  # height, width
    problem: str | None = None


@dataclass(frozen=True)
class ImageFiles:
    """The readable images of a folder (with its subfolders) or of a ZIP, in the order of their names.

    `shapes`: channels, height and width, all there are, the most frequent first. `sha256`: of names and contents.
    """

    source: Path
    names: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    sha256: str
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The most frequent one."""
        return self.shapes[0]

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, batch_size: int, chosen: Sequence[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yields the images with the numbers `chosen` (all) as uint8 [b, C, H, W], b at most `batch_size`.

        Each batch is of one size; where sizes differ, one reading of `batch_size` files becomes several batches.
        """
        names = self.names if chosen is None else [self.names[i] for i in chosen]
        with _opened(self.source) as read, ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(names), batch_size):
                groups: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}
                for image in pool.map(lambda name: self._pixels(read, name), names[start : start + batch_size]):
                    groups.setdefault(image.shape, []).append(image)
                yield from (np.stack(images) for images in groups.values())

    def _pixels(self, read: Callable[[str], bytes], name: str) -> NDArray[np.uint8]:
        try:
            picture = picture_files.decode(read(name))
        except InputError as error:
            raise InputError(f"{self.source}: {name} changed while it was scored (it {error}); start again") from error
        pixels = np.asarray(picture_files.flattened(picture, "L" if self.shape[0] == 1 else "RGB"))
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def look_at(source: Path, candidates: Sequence[str]) -> ImageFiles:
    """Reads every candidate once. Files that cannot be read are left out and counted in `skipped`.

    Transparency is dropped, and among colour images grey ones become three equal channels, as clean-fid does; `notes`
    count both, and sizes that differ. InputError where nothing is left.
    """
    picture_files.check_some(source, candidates)
    with _opened(source) as read, ThreadPoolExecutor(READERS) as pool:
        looks = list(pool.map(lambda name: _look(read, name), candidates))
    good, broken = ([look for look in looks if (look.problem is None) is usable] for usable in (True, False))
    if not good:
        raise InputError(f"{source} holds no readable image: {broken[0].name} {broken[0].problem}")
    colour = any(look.mode not in GREY_MODES for look in good)
    counts = Counter((3 if colour else 1, *look.size) for look in good).most_common()
    listing = "".join(f"{look.name}\0{look.sha256}\n" for look in good)
    return ImageFiles(
        source,
        names=tuple(look.name for look in good),
        shapes=tuple(shape for shape, _ in counts),
        sha256=hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(),
        skipped=(_skipped(source, broken, len(looks)),) if broken else (),
        notes=tuple(_notes(source, good, colour, len(good) - counts[0][1])),
    )


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[Callable[[str], bytes]]:
    """Gives the contents of a file by its name, or an InputError that goes behind the name."""
    if source.is_dir():
        yield lambda name: picture_files.read_file(source / name)
    else:
        with picture_files.open_zip(source, ALLOWED) as archive:
            yield lambda name: picture_files.read_member(archive, name)


def _look(read: Callable[[str], bytes], name: str) -> _Seen:
    try:
        data = read(name)
        picture = picture_files.decode(data)
    except InputError as error:
        return _Seen(name, problem=str(error))
    size = picture.height, picture.width
    return _Seen(name, hashlib.sha256(data).hexdigest(), picture.mode, picture.has_transparency_data, size)


def _skipped(source: Path, broken: list[_Seen], total: int) -> str:
    first = f"{broken[0].name}, {broken[0].problem}"
    return printable(f"{len(broken):,} of {total:,} files in {source}: the first, {first}")


def _notes(source: Path, good: list[_Seen], colour: bool, n_other_sizes: int) -> Iterator[str]:
    transparent = sum(look.transparent for look in good)
    grey = sum(look.mode in GREY_MODES for look in good) if colour else 0
    of_all = f"of {len(good):,} images in {printable(str(source))}"
    if transparent:
        yield f"{transparent:,} {of_all} have transparency, which was dropped"
    if grey:
        yield f"{grey:,} {of_all} are grey and became colour"
    if n_other_sizes:
        yield f"{n_other_sizes:,} {of_all} are of another size than the rest"
