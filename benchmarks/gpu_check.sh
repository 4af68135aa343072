#!/usr/bin/env bash
# Everything that needs a GPU, in one call on a machine with CUDA torch and nvcc; results under ${OUT:-./gpu-results}.
# Each step has a time limit, a failing step does not stop the others, and the summary comes last.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-$PWD/gpu-results}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export WSSS_FAST_CACHE="$OUT/cache" WSSS_FAST_BACKEND=native PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
rm -rf "$WSSS_FAST_CACHE"
SUMMARY="$OUT/summary.txt"
: > "$SUMMARY"

step() { # step NAME LIMIT_SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS code
  shift 2
  timeout -k 5 "$limit" "$@" > "$OUT/$name.log" 2>&1
  code=$?
  printf '%-12s exit %3d  %4d s  %s\n' "$name" "$code" $((SECONDS - start)) "$(grep -v '^ *$' "$OUT/$name.log" | tail -1 | cut -c1-110)" >> "$SUMMARY"
}

SMALL='
import torch
from wsss_fast import ops
g = torch.Generator().manual_seed(0)
for shape in [(1, 2, 20, 33), (2, 2, 21, 17, 19), (1, 81, 9, 8)]:
    image = torch.randint(0, 256, (shape[0], 3, *shape[-2:]), generator=g, dtype=torch.uint8)
    unary = torch.rand(shape, generator=g) * 3
    q = ops.dense_crf(image.cuda(), unary.cuda(), iterations=2).cpu()
    print((q - ops.dense_crf(image, unary, iterations=2)).abs().max().item())
'

step machine 20 sh -c 'nvidia-smi -L; nvcc --version | tail -1'
step build 120 "$PYTHON" -c 'from wsss_fast import _native; i = _native.info(); print(i); print("build", i["build_seconds"], "s for sm", i["cuda_archs"])'
step tests 180 "$PYTHON" -m pytest -q tests/test_dense_crf.py -k "cuda or photos"
if command -v compute-sanitizer > /dev/null; then
  step memcheck 90 compute-sanitizer --tool memcheck --error-exitcode 9 "$PYTHON" -c "$SMALL"
  step racecheck 90 compute-sanitizer --tool racecheck --error-exitcode 9 "$PYTHON" -c "$SMALL"
else
  echo "memcheck, racecheck: compute-sanitizer is not on PATH" >> "$SUMMARY"
fi
step bench 120 "$PYTHON" -m wsss_fast bench crf --device cuda --quick --repeats 3 --no-memory --out "$OUT"
rm -rf "$WSSS_FAST_CACHE"

cat "$OUT/bench.log"
echo "---- summary (logs in $OUT)"
cat "$SUMMARY"
