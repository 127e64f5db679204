"""Tensors as they are at one moment, whatever is done to them afterwards."""

from __future__ import annotations

from typing import Any

import torch


def snapshot(content: Any) -> Any:
    """Dicts and lists of tensors and plain values, nested as they are, with a copy of every tensor in main memory."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: snapshot(value) for key, value in content.items()}
    return [snapshot(value) for value in content] if isinstance(content, list) else content
