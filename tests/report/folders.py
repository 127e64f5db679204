"""Small run folders, as `pctool train` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from pctool.evaluation.metrics_file import versions
from pctool.spectrum.live import SpectrumWriter
from pctool.training.config import resolve
from tests.spectrum.samples import row

PROTOCOL = {"name": "custom", "n_real": 10, "n_fake": 10, "split": "train", "resizer": "clean"}


def make_run(
    path: Path,
    *,
    scores: dict[int, float] | None = None,
    metric: str = "fid",
    code: int | None = 0,
    protocol: dict[str, Any] | None = None,
    **flags: Any,
) -> Path:
    """A run of 20 steps unless the flags say otherwise, with spectra of steps 0, 10 and 20, and scores by step."""
    config = resolve({"dataset": "cifar10", "steps": 20, "out": path, "device": "cpu", **flags})
    identity = {**config.identity(), "data_sha256": "0" * 64}
    path.mkdir(parents=True)
    record = {"config": config.model_dump(mode="json"), "identity": identity, "identity_sha256": "1" * 64}
    record |= {"versions": versions(), "command": ["pctool", "train", "--out", str(path)]}
    (path / "config.json").write_text(json.dumps(record))
    stats = [{"step": step, "loss_d": 1.0 / step, "loss_g": 0.5} for step in (10, 20)]
    (path / "stats.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in stats))
    entries = [
        {"step": step, "scores": {metric: score, "kid": 0.1}, "protocol": protocol or PROTOCOL}
        for step, score in (scores or {}).items()
    ]
    if entries:
        (path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    if code is not None:
        (path / "exit.json").write_text(json.dumps({"code": code, "reason": "x", "step": 20, "requeue": False}))
    writer = SpectrumWriter(path / "spectrum.h5", str(path), "D")
    for step in (0, 10, 20):
        writer.append(row(step))
    (path / "samples").mkdir()
    for step in (10, 20):
        Image.new("RGB", (4, 4), (step, 0, 0)).save(path / "samples" / f"{step:08d}.png")
    return path
