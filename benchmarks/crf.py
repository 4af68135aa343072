"""dense_crf against its eager reference and pydensecrf2, on photos, in one run.

    python -m benchmarks crf [--device cuda] [--threads 2] [--quick] [--json FILE]

Times are medians; a row whose outputs disagree prints the disagreement and no time.
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np
import torch

import wsss_fast.ops as ops
from wsss_fast import _native

TERMS = dict(gaussian=(3.0, 3.0), bilateral=(50.0, 5.0, 10.0))
ITERATIONS = 10
# name, labels, unaries per image, images
ROWS = [
    ("2 labels", 2, 1, 1),
    ("5 labels", 5, 1, 1),
    ("21 labels", 21, 1, 1),
    ("81 labels", 81, 1, 1),
    ("seed pair, 3 labels", 3, 2, 1),
    ("batch of 8, 3 labels", 3, 1, 8),
]
MAX_DQ, MIN_ARGMAX = 1e-3, 0.9999


def photos(count, height, width):
    """uint8 [count, 3, H, W]: scikit-image's photos, repeated with flips when `count` asks for more."""
    import skimage.data  # a test extra
    from PIL import Image

    out = []
    for name in ("chelsea", "coffee", "astronaut", "rocket"):
        image = Image.fromarray(getattr(skimage.data, name)()).resize((width, height), Image.Resampling.LANCZOS)
        out.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    out += [image.flip(2) for image in out]
    return torch.stack(out[:count])


def unaries(images, sets, labels, height, width):
    """Energies [B, S, L, H, W] of smooth random label maps that are right with probability 0.7."""
    generator = torch.Generator().manual_seed(labels)
    low = torch.randn(images * sets, labels, 9, 12, generator=generator)
    scores = torch.nn.functional.interpolate(low, (height, width), mode="bicubic")
    return ops.unary_from_labels(scores.argmax(1).view(images, sets, height, width), labels)


def peer(image, unary):
    """pydensecrf2 on every image and unary, one after the other."""
    from pydensecrf import densecrf  # optional peer

    out = torch.empty_like(unary)
    b, s, labels, height, width = unary.shape
    for i in range(b):
        rgb = image[i].permute(1, 2, 0).contiguous().numpy()
        for j in range(s):
            crf = densecrf.DenseCRF2D(width, height, labels)
            crf.setUnaryEnergy(unary[i, j].reshape(labels, -1).numpy())
            crf.addPairwiseGaussian(sxy=TERMS["gaussian"][0], compat=TERMS["gaussian"][1])
            sxy, srgb, weight = TERMS["bilateral"]
            crf.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=rgb, compat=weight)
            out[i, j] = torch.from_numpy(np.array(crf.inference(ITERATIONS))).view(labels, height, width)
    return out


def seconds(call, repeats, device):
    """Median wall time after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def agreement(q, expected):
    q, expected = q.cpu(), expected.cpu()
    return {
        "max_dq": (q - expected).abs().max().item(),
        "argmax": (q.argmax(-3) == expected.argmax(-3)).double().mean().item(),
    }


def measure(row, device, repeats, slow):
    name, labels, sets, images = row
    height, width = 375, 500
    image = photos(images, height, width)
    unary = unaries(images, sets, labels, height, width)
    on_device = image.to(device), unary.to(device)

    def ours():
        return ops.dense_crf(*on_device, **TERMS, iterations=ITERATIONS)

    def reference():
        return ops.reference.dense_crf(*on_device, **TERMS, iterations=ITERATIONS)

    expected = peer(image, unary)
    result = {"name": name, "labels": labels, "sets": sets, "images": images, **agreement(ours(), expected)}
    if result["max_dq"] > MAX_DQ or result["argmax"] < MIN_ARGMAX:
        return result
    result["ours"] = seconds(ours, repeats, device)
    result["peer"] = seconds(lambda: peer(image, unary), max(1, repeats // 2), torch.device("cpu"))
    if slow:
        result["reference"] = seconds(reference, 1, device)
    return result


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks crf", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of ours and eager")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="leave out the eager reference")
    parser.add_argument("--json", help="write the results here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    info = _native.info()
    print(f"dense_crf, 500x375, {ITERATIONS} iterations, {TERMS}")
    print(f"{platform.processor() or platform.machine()}, {options.device}, {options.threads} threads, "
          f"backend {info['backend']}, simd {info['simd']}, torch {info['torch']}")  # fmt: skip
    print(f"{'case':<22}{'ours ms':>9}{'eager ms':>10}{'pydensecrf ms':>15}{'ratio':>8}{'max dQ':>10}{'argmax':>11}")
    results = []
    for row in ROWS:
        result = measure(row, options.device, options.repeats, not options.quick)
        results.append(result)
        times = [f"{1e3 * result[k]:.1f}" if k in result else "-" for k in ("ours", "reference", "peer")]
        ratio = f"{result['peer'] / result['ours']:.1f}x" if "ours" in result else "WRONG"
        print(f"{result['name']:<22}{times[0]:>9}{times[1]:>10}{times[2]:>15}{ratio:>8}"
              f"{result['max_dq']:>10.1e}{result['argmax']:>11.4%}", flush=True)  # fmt: skip
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"info": info, "threads": options.threads, "device": str(options.device), "rows": results}, file,
                      indent=1)  # fmt: skip
