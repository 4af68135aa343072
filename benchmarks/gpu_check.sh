#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most 8 minutes, on a machine with CUDA, torch and
# nvcc, without a network: machine, cold build, tests on CUDA, throughput of operators, stages and
# trainings, whole pipelines, NCCL, sanitizers, profiles. benchmarks/gpu_check.py does the work.
#
#   OUT=results benchmarks/gpu_check.sh              # writes summary.txt, gpu_check.json and
#                                                    # gpu_check.tar.gz (logs) into OUT
#   benchmarks/gpu_check.sh --device cpu             # the same at tiny sizes, to test the check
#   benchmarks/gpu_check.sh --only build tests crf   # some steps; --list prints all of them
#   benchmarks/gpu_check.sh --only preparation operators stages   # and then, on the same machine,
#   benchmarks/gpu_check.sh --only preparation pipelines tools    # the other sections
#   benchmarks/gpu_check.sh --against DIR            # only operators, an older version in DIR
#                                                    # against this one: gpu_versions.py
#
# GPU_CHECK_SECONDS is the time limit of the whole check (470); steps that do not fit into the rest
# of it are skipped. PYTHON is the interpreter (python3). The exit code is 1 if a step failed or
# ran out of time.
#
# A machine without tyro (the parser of the command line) gets it and its dependencies as wheels.
# Where pip has a network, in the root of the repository:
#   echo /.whl/ >> "$(git rev-parse --git-path info/exclude)"
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 \
#     --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
#     -d .whl tyro==1.0.17 docstring-parser==0.18.0 typeguard==4.6.1 typing-extensions==4.16.0
# On the GPU machine, after copying .whl there:
#   python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
#     --target /tmp/site .whl/*.whl
#   export PYTHONPATH=/tmp/site; bash benchmarks/gpu_check.sh
set -u
cd "$(dirname "$0")/.." || exit
if [ "${1:-}" = --against ]; then
    shift
    exec "${PYTHON:-python3}" benchmarks/gpu_versions.py "$@"
fi
exec "${PYTHON:-python3}" benchmarks/gpu_check.py "$@"
