#!/usr/bin/env bash
# Everything that needs a GPU, in one call on a machine with CUDA torch and nvcc; results under ${OUT:-./gpu-results}.
# Each step has a time limit (together under 10 minutes), a failing step does not stop the others, the summary comes last.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-$PWD/gpu-results}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export OUT WSSS_FAST_CACHE="$OUT/cache" WSSS_FAST_BACKEND=native PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
rm -rf "$WSSS_FAST_CACHE"
SUMMARY="$OUT/summary.txt"
: > "$SUMMARY"

step() { # step NAME LIMIT_SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS code
  shift 2
  if ! command -v "$1" > /dev/null; then
    printf '%-10s skipped: %s is not on PATH\n' "$name" "$1" >> "$SUMMARY"
    return
  fi
  timeout -k 5 "$limit" "$@" > "$OUT/$name.log" 2>&1
  code=$?
  printf '%-10s exit %3d  %4d s  %s\n' "$name" "$code" $((SECONDS - start)) \
    "$(grep -v '^ *$' "$OUT/$name.log" | tail -1 | cut -c1-110)" >> "$SUMMARY"
}

# Every path of the kernels on few pixels: label counts of every width, sets, batches, spatial only, lattices.
SMALL='
import torch
from wsss_fast import ops
g = torch.Generator().manual_seed(0)
G, B = [3.0, 3.0, 3.0], [20.0, 20.0, 9.0, 9.0, 9.0, 5.0]
worst = 0.0
for shape in [(1, 1, 2, 20, 33), (3, 2, 3, 9, 14), (2, 1, 21, 17, 19), (1, 1, 81, 9, 8), (1, 1, 256, 5, 6), (1, 2, 5, 1, 7)]:
    image = torch.randint(0, 256, (shape[0], 3, *shape[-2:]), generator=g).float()
    unary = torch.rand(shape, generator=g) * 3
    for terms in [(G, B), (G, []), ([], B)]:
        ours, cpu = (torch.ops.wsss_fast.dense_crf(image.to(d), unary.to(d), *terms, [0.0, 255.0], 2).cpu() for d in ("cuda", "cpu"))
        worst = max(worst, (ours - cpu).abs().max().item())
print("dense_crf: worst difference from the CPU kernel", worst)
assert worst < 1e-4
for n, d, c in [(37, 1, 1), (40, 2, 4), (101, 5, 21), (33, 8, 3)]:
    features, values = torch.rand(n, d, generator=g) * 4, torch.rand(n, c, generator=g)
    for reverse in (False, True):
        out = []
        for device in ("cuda", "cpu"):
            lattice = torch.ops.wsss_fast.permutohedral_lattice(features.to(device))
            out.append(torch.ops.wsss_fast.lattice_filter(*lattice, values.to(device), reverse).cpu())
        worst = max(worst, (out[0] - out[1]).abs().max().item())
print("worst difference from the CPU kernels", worst)
assert worst < 1e-4
for k, dilations in [(1, [1]), (3, [1, 2, 6])]:
    tensors = [torch.rand(s, generator=g).cuda().requires_grad_()
               for s in [(3, 40, 9, 11), (3, 40), (len(dilations), 5, 40, k, k), (len(dilations), 5)]]
    out = ops.label_conditioned_activation(*tensors, dilations, size=(20, 31))
    out.square().sum().backward()
    print((out - ops.reference.label_conditioned_activation(*tensors, dilations, size=(20, 31))).abs().max().item())
'

# `wsss-fast bench NAME OPTION=VALUE ROWS`, without the command line, whose parser such a machine may lack.
BENCH='
import importlib, os, pathlib, sys
import rich
from wsss_fast.bench import harness, show
name, option, *rows = sys.argv[1:]
options = dict([option.split("=")]) if option else {}
suite = importlib.import_module(f"wsss_fast.bench.{name}").suite(**options)
report = harness.run_suite(suite, pathlib.Path(os.environ["OUT"]), device="cuda", rows=rows, memory=False)
rich.print(*show.parts(report), sep="\n")
sys.exit(len(report.wrong()))
'

step machine 15 sh -c 'nvcc --version | tail -1; nvidia-smi -L'
step build 100 "$PYTHON" -c 'from wsss_fast import _native; i = _native.info(); print(i); print("build", i["build_seconds"], "s for sm", i["cuda_archs"])'
step small 20 "$PYTHON" -c "$SMALL"
step tests 90 "$PYTHON" -m pytest -q tests/test_cuda_graph.py tests/test_*crf*.py tests/test_lattice*.py -k "cuda" -p no:cacheprovider
step tests_head 40 "$PYTHON" -m pytest -q tests/test_label_conditioned.py tests/test_resized_activation.py -k "cuda" -p no:cacheprovider
step tests_losses 60 "$PYTHON" -m pytest -q tests/test_pixel_loss.py tests/test_saliency_loss.py tests/test_aamr_loss.py tests/test_random_walk.py \
  -k "cuda" -p no:cacheprovider
for dtype in float32 bfloat16; do
  step "head_$dtype" 30 "$PYTHON" -c "$BENCH" label_conditioned dtype="$dtype" amn16-train amn16-81-train amn-inference deeplab-train
done
step losses 20 "$PYTHON" -c "$BENCH" pixel_cross_entropy "" pcl32 pcl512
step rates 55 "$PYTHON" benchmarks/gpu_crf.py --json "$OUT/gpu_crf.json"
step memcheck 35 compute-sanitizer --tool memcheck --error-exitcode 9 "$PYTHON" -c "$SMALL"
step racecheck 35 compute-sanitizer --tool racecheck --error-exitcode 9 "$PYTHON" -c "$SMALL"
# The last iterations of the third call: splat, carries, six blurs, update.
for row in "21 labels" "seed pair of 3 labels"; do
  step "ncu_${row%% *}" 30 ncu --clock-control none --target-processes all --launch-skip 300 --launch-count 12 \
    --kernel-name 'regex:splat|add_carries|blur|update' --section SpeedOfLight --section Occupancy \
    "$PYTHON" benchmarks/gpu_crf.py --once "$row"
done
rm -rf "$WSSS_FAST_CACHE"

echo "---- rates (images per second)"
cat "$OUT/rates.log" "$OUT"/head_*.log "$OUT/losses.log"
echo "---- hottest kernels: duration, memory and SM throughput"
grep -hE '^ *[a-z_:]*(splat|add_carries|blur|update)|Duration|Memory Throughput +%|Compute \(SM\)' "$OUT"/ncu_*.log 2> /dev/null | cut -c1-100 | head -60 > "$OUT/ncu.txt"
head -12 "$OUT/ncu.txt"
echo "---- summary (logs in $OUT)"
cat "$SUMMARY"
