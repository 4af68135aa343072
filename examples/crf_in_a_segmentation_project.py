"""The dense CRF behind any segmentation network: from logits to refined labels.

    python examples/crf_in_a_segmentation_project.py [FOLDER]

A network predicts at a fraction of the image's resolution, so its boundaries are blurred. The
dense CRF moves them to the edges of the image. Here the logits are synthetic: those of a true mask,
averaged over blocks of 8 x 8 pixels, with noise. Replace them with those of your network.

The same refinement on files of any tool: `wsss-fast crf photo.png coarse.png -o refined.png`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import wsss_fast as wf

HEIGHT, WIDTH = 96, 128


def photo_and_mask() -> tuple[Tensor, Tensor]:
    """An image, uint8 [3, H, W], of two objects on a noisy ground, and its mask, int64 [H, W]."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    mask[(y - 45) ** 2 + (x - 38) ** 2 < 26**2] = 1
    mask[(y > 30) & (y < 84) & (x > 80) & (x < 80 + (y - 30))] = 2
    colours = torch.tensor([[90.0, 120.0, 80.0], [170.0, 80.0, 70.0], [80.0, 90.0, 160.0]])
    image = colours[mask].permute(2, 0, 1) + 20 * torch.randn(3, HEIGHT, WIDTH)
    return image.clamp(0, 255).to(torch.uint8), mask


def coarse_logits(mask: Tensor) -> Tensor:
    """What a network with stride 8 would predict: logits [1, L, H / 8, W / 8]."""
    shares = F.avg_pool2d(F.one_hot(mask).permute(2, 0, 1)[None].float(), 8)
    return 4 * shares + 0.5 * torch.randn(shares.shape)


def error(labels: Tensor, mask: Tensor) -> float:
    """Share of wrong pixels in %."""
    return 100 * (labels != mask).double().mean().item()


def main(folder: Path) -> None:
    torch.manual_seed(0)
    image, mask = photo_and_mask()

    # 1. Tensors: logits -> probabilities at the image's size -> energies -> marginals.
    logits = F.interpolate(coarse_logits(mask), (HEIGHT, WIDTH), mode="bilinear")
    unary = wf.ops.unary_from_probabilities(logits.softmax(dim=1))  # [1, L, H, W]
    q = wf.ops.dense_crf(image[None], unary, bilateral=(20.0, 20.0, 10.0))  # [1, L, H, W]
    before, after = logits.argmax(dim=1)[0], q.argmax(dim=1)[0]
    print(f"wrong pixels: {error(before, mask):.2f} % before, {error(after, mask):.2f} % after")
    print(f"marginals sum to {q.sum(dim=1).mean():.4f}")

    # 2. Files: the label map of any tool, refined by the command line.
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "photo.png")
    Image.fromarray(before.numpy().astype(np.uint8)).save(folder / "coarse.png")
    files = [str(folder / name) for name in ("photo.png", "coarse.png", "refined.png")]
    command = [sys.executable, "-m", "wsss_fast", "crf", *files[:2], "-o", files[2]]
    subprocess.run([*command, "--crf.bilateral", "20", "20", "10", "--overwrite"], check=True)
    refined = torch.from_numpy(np.array(Image.open(folder / "refined.png")).astype(np.int64))
    print(f"wrong pixels of {folder / 'refined.png'}: {error(refined, mask):.2f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "crf-example"))
