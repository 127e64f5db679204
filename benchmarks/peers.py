"""Do our scores agree with clean-fid and torch-fidelity? The same two folders, the same randomly initialised Inception.

    pip install 'scipy<1.18' clean-fid torch-fidelity
    python benchmarks/peers.py --n 200

Two sets of images (real CIFAR-10 with --cifar10, else drawn here) go as PNG files through all three, in float32 on the
CPU. Weights are random, and the same for all: ours reads them as a state dict and as TorchScript. clean-fid's own
`frechet_distance` needs SciPy below 1.18. The last line says whether all differences are within their limits.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import nn

from pctool.data import catalog
from pctool.evaluation import features, inception, samples_out
from pctool.evaluation.images import ImageArray, Images, open_images
from pctool.evaluation.inception_net import FIDInception
from pctool.evaluation.inception_score import InceptionScore
from pctool.evaluation.metrics_file import versions
from pctool.evaluation.score import score
from pctool.evaluation.weights_files import INCEPTION_SCRIPT

# Largest difference allowed; absolute, for FID relative to the peer's value.
LIMITS = {"features": 1e-5, "fid": 1e-4, "kid": 1e-5, "is": 1e-5}


class Scripted(nn.Module):
    """The interface of the published TorchScript file: `layers`, `output`, and TensorFlow's resizer in `forward`."""

    def __init__(self, net: FIDInception) -> None:
        super().__init__()
        example = torch.zeros(1, 3, inception.SIZE, inception.SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; the published file is of its kind
            self.layers = torch.jit.trace(net, example, check_trace=False)
        self.output = nn.Linear(*reversed(net.fc.weight.shape))
        self.output.load_state_dict(net.fc.state_dict())

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        found = self.layers((img - 128) / 128)
        return found if return_features else nn.functional.linear(found, self.output.weight).softmax(1)


def random_inception() -> FIDInception:
    """He initialisation and batch norm at rest: with torch's default start all features would be near 1e-8."""
    torch.manual_seed(0)
    net = FIDInception()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    nn.init.normal_(net.fc.weight)
    return net.eval().requires_grad_(False)


def save_weights(folder: Path) -> tuple[Path, Path]:
    """The same weights as a state dict and as TorchScript."""
    net = random_inception()
    state_dict, script = folder / "inception.pth", folder / INCEPTION_SCRIPT.name
    torch.save(net.state_dict(), state_dict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        torch.jit.script(Scripted(net)).save(str(script))
    return state_dict, script


def drawn(n: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Smooth random pictures of varying contrast, uint8 [n, 3, size, size]: noise enlarged from 4 x 4."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, rng.uniform(10, 60 + 20 * seed, (n, 1, 1, 1)), (n, 3, 4, 4)))
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return (128 + smooth + 4 * torch.from_numpy(rng.normal(size=smooth.shape))).clamp(0, 255).byte().numpy()


def sets(n: int, cifar10: bool, data_dir: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The two sets: reals and darker ones for CIFAR-10, else drawn with two seeds."""
    if not cifar10:
        return drawn(n, 32, 0), drawn(n, 32, 1)
    images = catalog.load("cifar10", "test", data_dir).images
    return images[:n], (images[n : 2 * n] * 0.8).astype(np.uint8)


def everything(extractor: features.Extractor, images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features and probabilities of all images."""
    found = [extractor(batch) for batch in images.batches(50)]
    probabilities = [p for _, p in found if p is not None]
    return np.concatenate([f for f, _ in found]).astype(np.float64), np.concatenate(probabilities).astype(np.float64)


def of_clean_fid(script: Path, first: Path, second: Path) -> dict[str, Any]:
    """Its features (clean), and the FID and KID it makes of them."""
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit, and NumPy's of its resizer
        network = InceptionV3W(str(script.parent), download=False)
    found = [
        fid.get_folder_features(
            str(folder), network, num_workers=0, batch_size=50, device=torch.device("cpu"), mode="clean", verbose=False
        )
        for folder in (first, second)
    ]
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy announces the end of sqrtm's `disp`
        distance = fid.frechet_distance(*moments[0], *moments[1])
    return {"features": found, "fid": float(distance), "kid": fid.kernel_distance(*found, num_subsets=1)}


def of_torch_fidelity(state_dict: Path, first: Path, second: Path, n: int, cache: Path) -> dict[str, float]:
    """Its FID, KID and IS (legacy resizer), IS without shuffling."""
    import torch_fidelity

    with contextlib.redirect_stderr(io.StringIO()):
        found: dict[str, float] = torch_fidelity.calculate_metrics(
            input1=str(first),
            input2=str(second),
            cuda=False,
            batch_size=50,
            isc=True,
            fid=True,
            kid=True,
            kid_subset_size=n,
            kid_subsets=1,
            samples_shuffle=False,
            feature_extractor_weights_path=str(state_dict),
            cache=False,
            cache_root=str(cache),
            verbose=False,
        )
    return found


def compare(n: int, cifar10: bool, data_dir: Path | None, work: Path) -> list[dict[str, Any]]:
    """A row a comparison: what, with whom, both values, their difference and its limit."""
    os.environ["PCTOOL_CACHE_DIR"] = str(work / "cache")
    folders = work / "first", work / "second"
    for folder, images in zip(folders, sets(n, cifar10, data_dir), strict=True):
        with samples_out.writer(folder) as write:
            write(images)
    fake, real = (open_images(folder) for folder in folders)
    state_dict, script = save_weights(work)
    extractor = features.load("inception", state_dict)
    scripted = features.load("inception", script)
    ours = score(fake.batches(50), real, extractor, n_fake=n, resizers=("clean", "legacy")).scores
    legacy_kid = score(fake.batches(50), real, extractor, n_fake=n, resizers=("legacy",), metrics=("kid",)).scores
    theirs = of_clean_fid(script, *folders)
    fidelity = of_torch_fidelity(state_dict, *folders, n, work)
    few = ImageArray(np.concatenate(list(fake.batches(50, range(20)))))
    as_script, as_state = everything(scripted, few)[0], everything(extractor, few)[0]
    their_features = theirs["features"][0][: len(few)]
    in_order = InceptionScore(n, seed=None)
    in_order.update(everything(extractor.with_resizer("legacy"), fake)[1])
    rows: list[dict[str, Any]] = []

    def add(kind: str, what: str, peer: str, our: float, their: float, *, difference: float) -> None:
        within = difference <= LIMITS[kind]
        rows.append({"what": what, "peer": peer, "ours": our, "theirs": their, "difference": difference, "ok": within})

    for name, found in (("state dict", as_state), ("TorchScript", as_script)):
        gap = float(np.abs(found - their_features).max())
        add(
            "features",
            f"features, {name}",
            "clean-fid",
            float(found.mean()),
            float(their_features.mean()),
            difference=gap,
        )
    for kind, what, peer, our, their in (
        ("fid", "FID, clean", "clean-fid", ours["fid"], theirs["fid"]),
        ("fid", "FID, legacy", "torch-fidelity", ours["fid_legacy"], fidelity["frechet_inception_distance"]),
        ("kid", "KID, clean", "clean-fid", ours["kid"], theirs["kid"]),
        ("kid", "KID, legacy", "torch-fidelity", legacy_kid["kid"], fidelity["kernel_inception_distance_mean"]),
        ("is", "IS, legacy", "torch-fidelity", in_order.result()[0], fidelity["inception_score_mean"]),
        ("is", "deviation of IS", "torch-fidelity", in_order.result()[1], fidelity["inception_score_std"]),
    ):
        add(kind, what, peer, our, their, difference=abs(our - their) / (abs(their) if kind == "fid" else 1.0))
    return rows


def main(
    n: Annotated[int, typer.Option(help="Images a side, at most 1000: then KID's subsets are all.", max=1000)] = 200,
    cifar10: Annotated[bool, typer.Option("--cifar10", help="Real pictures instead of drawn ones.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Compares, and prints a line a comparison."""
    with tempfile.TemporaryDirectory() as work:
        rows = compare(n, cifar10, data_dir, Path(work))
    used = {**versions(), **{name: metadata.version(name) for name in ("scipy", "clean-fid", "torch-fidelity")}}
    if json_:
        print(json.dumps({"n": n, "ok": all(row["ok"] for row in rows), "rows": rows, "versions": used}, indent=2))
        return
    print("  ".join(f"{name} {version}" for name, version in used.items()))
    for row in rows:
        numbers = f"{row['ours']:.9g}  {row['theirs']:.9g}  {row['difference']:.1e}"
        print(f"{row['what']:22} {row['peer']:15} {numbers}  {'ok' if row['ok'] else 'TOO FAR'}")
    print("all agree" if all(row["ok"] for row in rows) else "they do NOT agree")


if __name__ == "__main__":
    typer.run(main)
