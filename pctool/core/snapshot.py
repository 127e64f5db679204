"""Tensors as they are at one moment, whatever is done to them afterwards."""

from __future__ import annotations

from typing import Any

import torch


def snapshot(content: Any) -> Any:
    """Dicts and lists of tensors and plain values, nested as they are, with a copy of every tensor in main memory.

    A GPU's are copied one behind the other into page-locked memory, which takes a fraction of the time, and waited for
    once. PyTorch keeps that memory for the next: up to twice what is copied.
    """
    copied = _copied(content)
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
    return copied


def _copied(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        copy = torch.empty_like(content, device="cpu", requires_grad=False, pin_memory=content.is_cuda)
        return copy.copy_(content.detach(), non_blocking=content.is_cuda)
    if isinstance(content, dict):
        return {key: _copied(value) for key, value in content.items()}
    return [_copied(value) for value in content] if isinstance(content, list) else content
