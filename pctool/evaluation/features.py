"""Feature extractors: frozen networks that turn uint8 images into the vectors that scores compare."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pctool.core.products import exact
from pctool.errors import InputError, MissingError
from pctool.evaluation import fashion_cnn, inception, resizers, torchvision_nets
from pctool.evaluation.images import describe
from pctool.evaluation.resizers import Resizer

INCEPTION, FASHION_CNN = "inception", "fashion-cnn"
# Of images at a time and thread: on a CPU, 8 of 224 x 224 go through mobilenet_v2 in 22 ms each, 96 in 40, since their
# activations leave the caches.
CHUNK_PIXELS = 8 * 224 * 224
LARGEST_ON_GPU = 512  # side of the images up to which a GPU resizes them: larger ones in a batch would fill it
Batch = tuple[NDArray[np.float32], NDArray[np.float32] | None]
Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Extractor:
    """A frozen network on its device, with all that identifies it.

    `sha256`: of its weights file. `channels`, `size`: what it takes. `resizer`: `clean` and `legacy` bring images of
    any size to `size` (`resizers`); `none` takes them as they are. `network` maps float32 [n, channels, size, size]
    in [0, 255] to features and class probabilities.
    `note`: what a person should know of these weights, if anything.
    """

    name: str
    sha256: str
    channels: Literal[1, 3]
    size: int
    resizer: Resizer
    has_probabilities: bool
    device: torch.device
    network: Network
    note: str | None = None

    def __call__(self, images: NDArray[np.uint8]) -> Batch:
        """uint8 [n, C, H, W] to features float32 [n, d] and probabilities [n, k] (None where there are none)."""
        self.check(images.shape[1:])
        on_cpu = self.device.type == "cpu"
        if not on_cpu and max(images.shape[2:]) <= LARGEST_ON_GPU:
            return self._infer(torch.tensor(images))
        n_threads = torch.get_num_threads()
        step = min(-(-len(images) // n_threads), max(1, CHUNK_PIXELS // self.size**2))
        chunks = [images[start : start + step] for start in range(0, len(images), step)]
        with ThreadPoolExecutor(n_threads, initializer=_single_threaded) as pool:
            if on_cpu:
                found = list(pool.map(lambda chunk: self._infer(self._resized(chunk)), chunks))
            else:
                found = [self._infer(torch.cat(list(pool.map(self._resized, chunks))))]
        features = np.concatenate([f for f, _ in found])
        return features, np.concatenate([p for _, p in found if p is not None]) if self.has_probabilities else None

    def check(self, shape: tuple[int, ...]) -> None:
        """InputError where images [C, H, W] cannot be scored with this network."""
        if shape[0] > self.channels:
            raise InputError(
                f"--extractor {self.name} takes grey images, these are {describe(shape)}; use --extractor "
                "inception, or a torchvision network such as mobilenet_v2 with --weights FILE"
            )
        if self.resizer == "none" and shape[1:] != (self.size, self.size):
            raise InputError(
                f"--extractor {self.name} takes {self.size}x{self.size} images, these are {describe(shape)}; use "
                "--extractor inception, or a torchvision network such as mobilenet_v2 with --weights FILE"
            )

    def _resized(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """The network's input by the host, float32 [n, channels, size, size] in [0, 255]."""
        if images.shape[1] < self.channels:
            images = images.repeat(self.channels, 1)
        if self.resizer == "none":
            return torch.from_numpy(images.astype(np.float32))
        resize = resizers.clean if self.resizer == "clean" else resizers.legacy
        return torch.from_numpy(resize(images, self.size))

    def with_resizer(self, resizer: Resizer) -> Self:
        """The same network behind another resizer. InputError where it is not Inception, or the resizer not its own."""
        if resizer != self.resizer and (self.name != INCEPTION or resizer == "none"):
            raise InputError(
                f"--resizer {resizer} goes with --extractor inception; {self.name} has the resizer '{self.resizer}'"
            )
        return dataclasses.replace(self, resizer=resizer)

    def _infer(self, x: torch.Tensor) -> Batch:
        """Of the network's input, or of images uint8 [n, C, H, W], which become it on the device."""
        with torch.inference_mode(), exact(self.device):
            x = x.to(self.device)
            if x.dtype == torch.uint8:
                x = resizers.by_matrices(x, self.size, self.resizer).expand(-1, self.channels, -1, -1)
            features, probabilities = self.network(x.contiguous(memory_format=torch.channels_last))
            return features.cpu().numpy(), None if probabilities is None else probabilities.cpu().numpy()


def _single_threaded() -> None:
    """Chunks run in parallel, and so layers need not: no thread waits for another, which on shared cores costs most."""
    torch.set_num_threads(1)  # holds for the calling thread


def default_for(dataset: str) -> str:
    """The extractor that scores a run on `dataset` when none is named."""
    return FASHION_CNN if dataset == "fashion-mnist" else INCEPTION


def load(name: str, weights: Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """The extractor called `name`, its weights from `weights` (fashion-cnn has its own).

    InputError: an unknown name, or a file that is not its weights. MissingError: weights that are not here.
    """
    device = torch.device(device)
    if name == FASHION_CNN:
        return _fashion_cnn(weights, device)
    if name == INCEPTION:
        return _inception(weights, device)
    check_name(name)
    return _torchvision(name, weights, device)


def check_name(name: str) -> None:
    """InputError for a name that is no extractor's."""
    if name in {FASHION_CNN, INCEPTION}:
        return
    known = torchvision_nets.names()
    if name not in known:
        close = difflib.get_close_matches(name, [INCEPTION, FASHION_CNN, *known], 3, 0.4)
        meant = f"did you mean {' or '.join(close)}?" if close else "see torchvision's classification networks"
        raise InputError(
            f"unknown extractor '{name}'; allowed: inception, fashion-cnn or a torchvision network; {meant}"
        )


def _fashion_cnn(weights: Path | None, device: torch.device) -> Extractor:
    if weights is not None:
        raise InputError("--extractor fashion-cnn has its own weights; leave --weights out")
    data = fashion_cnn.weights()
    network = fashion_cnn.scorer(data, device)
    size = fashion_cnn.IMAGE_SIZE
    return Extractor(FASHION_CNN, _sha256(data), 1, size, "none", True, device, network)


def _inception(weights: Path | None, device: torch.device) -> Extractor:
    path = weights or inception.default_path()
    if weights is None and not path.exists():
        raise MissingError(f"Inception's weights are not here ({path}): get them with 'pctool data fetch inception'")
    data, sha256 = _read(path)
    network, has_probabilities = inception.scorer(data, path, device)
    known = sha256 in inception.KNOWN
    note = None if known else f"{path.name} is neither published file of FID's Inception (SHA-256 {sha256})"
    return Extractor(INCEPTION, sha256, 3, inception.SIZE, "clean", has_probabilities, device, network, note)


def _torchvision(name: str, weights: Path | None, device: torch.device) -> Extractor:
    path = weights or torchvision_nets.official(name).path
    if weights is None and not path.exists():
        raise MissingError(
            f"the official weights of {name} are not here ({path}): get them with 'pctool data fetch {name}'"
        )
    data, sha256 = _read(path)
    recipe = torchvision_nets.recipe(name, path, sha256)
    network = torchvision_nets.scorer(name, data, path, recipe, device)
    return Extractor(name, sha256, 3, recipe.size, "clean", True, device, network, recipe.note)


def _read(path: Path) -> tuple[bytes, str]:
    """A weights file and its SHA-256. InputError where it cannot be read, or its name promises another."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read weights {path}: {error.strerror}; give the file itself") from None
    sha256 = _sha256(data)
    promised = torchvision_nets.promised_sha256(path.name)
    if promised and not sha256.startswith(promised):
        raise InputError(f"{path} is damaged: its name promises SHA-256 {promised}, its content is {sha256[:8]}")
    return data, sha256


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
