#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most 8 minutes on a machine with CUDA torch and nvcc, and no network:
# machine, cold build, tests on CUDA, rates, whole pipelines, NCCL, sanitizers, profiles. benchmarks/gpu_check.py does the work.
#
#   OUT=results benchmarks/gpu_check.sh              # writes summary.txt, gpu_check.json and gpu_check.tar.gz (logs) there
#   benchmarks/gpu_check.sh --device cpu             # the same at tiny sizes on a CPU, to test the check itself
#   benchmarks/gpu_check.sh --only build tests crf   # some steps; --list names them
#
# GPU_CHECK_SECONDS is the time for everything (470); steps that no longer fit are skipped. PYTHON is the interpreter (python3).
# Exit code 1 if a step failed or ran out of time.
#
# A machine without tyro (the command line's parser) takes it and what it needs as wheels. Where pip works, in the repository's root:
#   echo /.whl/ >> "$(git rev-parse --git-path info/exclude)"
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 -d .whl \
#     tyro==1.0.17 docstring-parser==0.18.0 typeguard==4.6.1 typing-extensions==4.16.0
# On the machine, with .whl carried there:
#   python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl \
#     && export PYTHONPATH=/tmp/site; bash benchmarks/gpu_check.sh
set -u
cd "$(dirname "$0")/.." || exit
exec "${PYTHON:-python3}" benchmarks/gpu_check.py "$@"
