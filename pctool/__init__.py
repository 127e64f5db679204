"""The preconditioning layer for GAN discriminators: g(SN(W)), g a low-degree odd polynomial.

Names load their modules when first used, so that `import pctool` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pctool.core.layers.exchange import from_plugin as from_plugin
    from pctool.core.layers.exchange import to_plugin as to_plugin
    from pctool.core.layers.plugin import precondition as precondition
    from pctool.core.layers.plugin import precondition_ as precondition_
    from pctool.core.layers.plugin import remove_precondition_ as remove_precondition_
    from pctool.core.layers.plugin import singular_values as singular_values
    from pctool.core.layers.plugin import strengths as strengths
    from pctool.core.layers.plugin import update_strengths_ as update_strengths_
    from pctool.core.layers.preconditioner import Preconditioner as Preconditioner
    from pctool.core.layers.strength import Ladder as Ladder
    from pctool.core.linalg import polynomial_of_matrix as polynomial_of_matrix
    from pctool.core.polynomial import PUBLISHED as PUBLISHED
    from pctool.core.polynomial import OddPolynomial as OddPolynomial
    from pctool.core.spectra import condition_number as condition_number
    from pctool.core.spectra import modified_condition_number as modified_condition_number
    from pctool.errors import PctoolError as PctoolError
    from pctool.fitting import fit_polynomial as fit_polynomial

    __version__: str

_HOMES = {
    "from_plugin": "pctool.core.layers.exchange",
    "to_plugin": "pctool.core.layers.exchange",
    "precondition": "pctool.core.layers.plugin",
    "precondition_": "pctool.core.layers.plugin",
    "remove_precondition_": "pctool.core.layers.plugin",
    "singular_values": "pctool.core.layers.plugin",
    "strengths": "pctool.core.layers.plugin",
    "update_strengths_": "pctool.core.layers.plugin",
    "Preconditioner": "pctool.core.layers.preconditioner",
    "Ladder": "pctool.core.layers.strength",
    "polynomial_of_matrix": "pctool.core.linalg",
    "PUBLISHED": "pctool.core.polynomial",
    "OddPolynomial": "pctool.core.polynomial",
    "condition_number": "pctool.core.spectra",
    "modified_condition_number": "pctool.core.spectra",
    "PctoolError": "pctool.errors",
    "fit_polynomial": "pctool.fitting",
}

__all__ = [*_HOMES]  # noqa: PLE0604  # the names above, each from its home


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pctool")
    if name not in _HOMES:
        raise AttributeError(f"module 'pctool' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
