"""The paper's Tables 1 and 2 as it prints them ("Precondition Layer and Its Use for GANs", ICLR 2021 submission)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PaperRow:
    """FID, and the largest, second largest and mean condition number over the layers.

    The condition numbers are the modified ones as far as the authors' public code tells: the largest singular
    value over the mean of the lowest tenth, without the last linear layer.
    """

    fid: float
    max_kappa: float
    second_max_kappa: float
    mean_kappa: float


# (data set, resolution), then method, with the degree for fpc. "GaTech" in Table 2 is the SVD layer.
TABLE_1: dict[tuple[str, int], dict[str, PaperRow]] = {  # ResNet, one D step for one G step
    ("cifar10", 32): {
        "sn": PaperRow(77.82, 113.55, 19.46, 17.77),
        "fpc3": PaperRow(20.09, 22.65, 1.88, 3.16),
        "fpc7": PaperRow(19.31, 9.88, 1.32, 1.85),
        "apc": PaperRow(19.53, 12.06, 2.81, 3.19),
    },
    ("stl10", 48): {
        "sn": PaperRow(147.90, 217.06, 167.97, 53.37),
        "fpc3": PaperRow(33.99, 23.75, 22.35, 4.36),
        "fpc7": PaperRow(34.28, 2.55, 2.72, 1.53),  # the second above the largest, as printed
        "apc": PaperRow(34.08, 6.79, 6.47, 3.90),
    },
}
TABLE_2: dict[tuple[str, int], dict[str, PaperRow]] = {  # LSUN, the DCGAN nets of the authors' public code
    ("lsun-bedroom", 128): {
        "sn": PaperRow(53.48, 5.00, 2.20, 2.14),
        "svd": PaperRow(50.92, 1.75, 1.55, 1.46),
        "fpc3": PaperRow(51.05, 1.23, 1.15, 1.09),
        "apc": PaperRow(45.32, 2.75, 2.40, 1.82),
    },
    ("lsun-bedroom", 256): {
        "sn": PaperRow(81.09, 26.19, 6.02, 6.45),
        "svd": PaperRow(36.89, 2.76, 2.18, 1.82),
        "fpc3": PaperRow(35.61, 3.04, 2.03, 1.64),
        "apc": PaperRow(31.17, 4.35, 2.80, 2.18),
    },
    ("lsun-living-room", 256): {
        "sn": PaperRow(193.75, 66.87, 9.86, 13.54),
        "svd": PaperRow(32.79, 2.00, 1.95, 1.60),
        "fpc3": PaperRow(28.20, 2.95, 2.91, 1.64),
        "apc": PaperRow(28.29, 3.99, 3.63, 2.23),
    },
    ("lsun-tower", 256): {
        "sn": PaperRow(33.10, 12.75, 3.48, 3.50),
        "svd": PaperRow(35.05, 2.83, 2.36, 1.85),
        "fpc3": PaperRow(30.81, 2.43, 1.45, 1.33),
        "apc": PaperRow(29.58, 3.38, 2.53, 1.91),
    },
}


def published(config: dict[str, Any]) -> PaperRow | None:
    """The paper's row for a run's configuration; None where it has none.

    Only what names the experiment counts here. Whether the run also has its steps and widths is another
    question, which a report has to answer beside it.
    """
    if config.get("d_iters") != 1 or config.get("poly") or config.get("ladder"):
        return None
    table = {"resnet": TABLE_1, "dcgan": TABLE_2}.get(str(config.get("arch")), {})
    rows = table.get((str(config.get("dataset")), int(config.get("resolution") or 0)), {})
    return rows.get(method_key(config))


def method_key(config: dict[str, Any]) -> str:
    """`sn`, `apc`, ... and `fpc7` for fixed preconditioning of degree 7."""
    method = str(config.get("method"))
    return f"{method}{config.get('degree')}" if method == "fpc" else method
