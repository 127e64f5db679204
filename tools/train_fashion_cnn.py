"""Trains the classifier behind `--extractor fashion-cnn` on Fashion-MNIST's own training split.

    python tools/train_fashion_cnn.py FOLDER

FOLDER holds the four official IDX files, packed (.gz) or not. Writes pctool/evaluation/assets/fashion_cnn.safetensors
with its test accuracy in the metadata; below 91 % it writes nothing. Ten minutes on one busy core with AMX.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save
from torch.nn import functional as F

from pctool.evaluation.fashion_cnn import IMAGE_SIZE, WEIGHTS, FashionCNN
from pctool.files import write_bytes

OUT = Path(__file__).resolve().parents[1] / "pctool" / "evaluation" / "assets" / WEIGHTS
LEAST_ACCURACY = 0.91
SHIFT = 2  # pixels of random translation


def read_idx(folder: Path, name: str) -> torch.Tensor:
    """One IDX file of bytes as a uint8 tensor in its own shape; the header is a magic number and the dimensions."""
    path = folder / name
    raw = path.read_bytes() if path.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    n_dims = raw[3]
    shape = np.frombuffer(raw, ">u4", n_dims, offset=4).astype(int)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * n_dims).reshape(shape).copy())


def to_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 28, 28] to float32 [n, 1, 32, 32] in [-1, 1], padded with black."""
    return F.pad(images[:, None].float() / 127.5 - 1, (2,) * 4, value=-1.0)


def augment(x: torch.Tensor) -> torch.Tensor:
    """A mirror image of every other one, and a shift of up to SHIFT pixels a side."""
    n = len(x)
    x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(3), x)
    windows = F.pad(x, (SHIFT,) * 4, value=-1.0).unfold(2, IMAGE_SIZE, 1).unfold(3, IMAGE_SIZE, 1)
    dy, dx = torch.randint(2 * SHIFT + 1, (2, n))
    return windows[torch.arange(n), :, dy, dx]


@torch.inference_mode()
def accuracy(net: FashionCNN, x: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers, in float32."""
    net.eval()
    right = sum(int((net(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), labels.split(500), strict=True))
    return right / len(x)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the four IDX files.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 60,000 images.")] = 8,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    lr: Annotated[float, typer.Option(help="Highest learning rate of the one cycle.")] = 1e-2,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
) -> None:
    """Train, measure, write."""
    torch.manual_seed(seed)
    x, labels = (
        to_input(read_idx(folder, "train-images-idx3-ubyte")),
        read_idx(folder, "train-labels-idx1-ubyte").long(),
    )
    x_test, labels_test = (
        to_input(read_idx(folder, "t10k-images-idx3-ubyte")),
        read_idx(folder, "t10k-labels-idx1-ubyte"),
    )
    net = FashionCNN().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = epochs * -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    start = time.monotonic()
    for epoch in range(epochs):
        net.train()
        for batch in torch.randperm(len(x)).split(batch_size):
            inputs = augment(x[batch]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(inputs)
            loss = F.cross_entropy(logits.float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        measured = accuracy(net, x_test, labels_test)
        print(f"epoch {epoch + 1}/{epochs}: accuracy {measured:.4f}, {time.monotonic() - start:.0f} s", flush=True)
    if measured < LEAST_ACCURACY:
        raise SystemExit(f"accuracy {measured:.4f} is below {LEAST_ACCURACY}: nothing written")
    command = (
        f"python tools/train_fashion_cnn.py FOLDER --epochs {epochs} --batch-size {batch_size} --lr {lr} --seed {seed}"
    )
    metadata = {
        "trained_on": "Fashion-MNIST, training split (60,000 images)",
        "test_accuracy": f"{measured:.4f}",
        "test_images": json.dumps(len(x_test)),
        "command": command,
        "torch": torch.__version__,
    }
    state = {name: value.contiguous() for name, value in net.state_dict().items() if "num_batches" not in name}
    write_bytes(OUT, save(state, metadata))
    print(f"wrote {OUT} ({OUT.stat().st_size:,} bytes)")


if __name__ == "__main__":
    typer.run(main)
