"""A plain DCGAN loop, preconditioned by one line: `pctool.precondition_(D)`.

The networks and the loop know nothing of pctool. With the line every layer of D has g(SN(W)), the strength chosen per
layer while it trains. Without it (`--plain`) this loop fails, its D at 20 times G's learning rate: D's logits run away
and the samples fall apart.

    python examples/plug_in.py                # Fashion-MNIST, built in; writes plug_in.png
    python examples/plug_in.py --plain        # the same without the line
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import save_image

import pctool
from pctool.data.catalog import load


def generator() -> nn.Sequential:
    """z [n, 64] -> images [n, 1, 32, 32] in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(64, 128 * 16),
        nn.Unflatten(1, (128, 4, 4)),
        *(nn.BatchNorm2d(128), nn.ReLU(), nn.ConvTranspose2d(128, 64, 4, 2, 1)),
        *(nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1)),
        *(nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)),
        nn.Tanh(),
    )


def discriminator() -> nn.Sequential:
    """Images [n, 1, 32, 32] -> logits [n, 1]."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.1)),
        nn.Flatten(),
        nn.Linear(128 * 16, 1),
    )


def main() -> None:
    """Trains, prints the losses and the condition numbers of the weights in use, and draws 64 samples."""
    parser = argparse.ArgumentParser(description="A DCGAN with a preconditioned discriminator.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--plain", action="store_true", help="leave the discriminator as it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="plug_in.png")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images = torch.tensor(load("fashion-mnist").images)
    G, D = generator(), discriminator()
    if not args.plain:
        pctool.precondition_(D, "apc", taus=(2, 2.5, 3, 4), update_every=150)  # the line
    optim_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
    optim_d = torch.optim.Adam(D.parameters(), lr=2e-2, betas=(0.5, 0.999))

    for step in range(1, args.steps + 1):
        real = images[torch.randint(len(images), (32,))] / 127.5 - 1
        fake = G(torch.randn(32, 64))
        loss_d = F.relu(1 - D(real)).mean() + F.relu(1 + D(fake.detach())).mean()
        optim_d.zero_grad()
        loss_d.backward()
        optim_d.step()

        loss_g = -D(fake).mean()
        optim_g.zero_grad()
        loss_g.backward()
        optim_g.step()
        if step % 50 == 0 or step == args.steps:
            print(f"step {step}: D {loss_d.item():.3f}, G {loss_g.item():+.3f}")

    for name, sigmas in pctool.singular_values(D).items():
        print(f"layer {name}: modified kappa {pctool.modified_condition_number(sigmas):.2f}")
    save_image(G(torch.randn(64, 64)), args.out, normalize=True, value_range=(-1, 1))
    print(f"64 samples: {args.out}")


if __name__ == "__main__":
    main()
