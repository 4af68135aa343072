#!/usr/bin/env bash
# Installs the project under several releases of torch as the README describes, and tests its
# operators and networks there.
#   tools/torch_matrix.sh [VERSION...]   default: the oldest supported minor release to the newest
# Each version gets a new virtual environment, which is removed before the next one. One line is
# printed for each; OUT gets table.md, and VERSION.log and VERSION.xml (JUnit) of each version. The
# exit code is 0 if every version built the native kernels and passed. A CUDA build of torch takes
# about 5 GB of disk and a minute or two to install.
# Environment variables:
#   PYTHON   interpreter of the environments (default: python3)
#   CXX      C++ compiler of the native build (default: g++)
#   OUT      folder for the results (default: torch-matrix)
#   KEEP     1: keep the environments and print where they are
#   TESTS    files and options for pytest instead of the list below, such as
#            TESTS="tests/ops/test_unary.py -x"
set -euo pipefail

DEFAULT_VERSIONS=(2.10.0 2.11.0 2.12.1 2.13.0 2.14.1 2.15.0)
# Operators, networks and torch.compile, which depend on torch's version; not the training stages,
# which are built from them.
DEFAULT_TESTS=(tests/ops --ignore=tests/ops/test_cuda_on_cpu.py tests/nets tests/compat
  tests/golden/test_golden_{crf,nets}.py tests/methods/test_irn_relations.py
  tests/native/test_libraries.py::test_library_reports_build_info_and_signatures)
FREE_GB=15          # a version is skipped if less disk space is free
TEST_SECONDS=3600   # time limit for the tests of a version

if [[ ${1-} == -* ]]; then sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; fi
root=$(cd "$(dirname "$0")/.." && pwd)
versions=("${@:-${DEFAULT_VERSIONS[@]}}")
read -ra tests <<<"${TESTS:-${DEFAULT_TESTS[*]}}"
for test in "${tests[@]}"; do
  if [[ $test != -* && ! -e $root/${test%%::*} ]]; then
    echo "torch_matrix: $test does not exist" >&2
    exit 2
  fi
done
mkdir -p "${OUT:=torch-matrix}"
OUT=$(cd "$OUT" && pwd)
work=$(mktemp -d)
[[ ${KEEP-} == 1 ]] || trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
# A limit on torch in pip's configuration would exclude the newest versions.
export PIP_CONSTRAINT=/dev/null
# The machine may be shared: waiting threads sleep instead of spinning. Results are the same.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
export WSSS_FAST_GOLDEN=${WSSS_FAST_GOLDEN:-$root/../shared/golden}

list_sources() {  # files that git does not ignore; without git, all but hidden files
  git ls-files -coz --exclude-standard 2>/dev/null ||
    find . -mindepth 1 -name '.?*' -prune -o -type f -print0
}

field() {  # the value of one key in the output of `wsss-fast info`
  sed -nE "s/^ ?$1 +(.*[^ ]) *$/\1/p" "$2" | head -n 1
}

# Numbers of passed, failed and skipped tests, and the names of those that failed, separated by |
read -r -d '' SUMMARY <<'PYTHON' || true
import sys, xml.etree.ElementTree as tree
try:
    cases = list(tree.parse(sys.argv[1]).iter("testcase"))
except (OSError, tree.ParseError):
    print(f"0|0|0|no result: pytest ended with exit code {sys.argv[2]}")
    sys.exit()
bad = [c.get("classname", "").removeprefix("tests.") + "::" + c.get("name") for c in cases
       if c.find("failure") is not None or c.find("error") is not None]
skipped = sum(c.find("skipped") is not None for c in cases)
print(len(cases) - len(bad) - skipped, len(bad), skipped, ", ".join(bad).replace("|", "/"), sep="|")
PYTHON

one_version() {
  # Prints one row: torch|python|compiler|backend|build seconds|passed|failed|skipped|failures
  local version=$1 folder=$work/$1 log=$OUT/$1.log info=$work/$1/info.txt free source python code
  free=$(df --output=avail -BG "$work" | tail -n 1 | tr -dc 0-9)
  if ((free < FREE_GB)); then
    echo "$version|-|-|-|-|0|0|0|not tried: only $free GB of disk are free"
    return
  fi
  mkdir -p "$folder"
  source=$folder/source python=$folder/venv/bin/python code=0
  : >"$log"
  # A copy, since an installation writes a build directory into its source.
  mkdir "$source"
  (cd "$root" && list_sources | tar -c --null --ignore-failed-read -T - 2>>"$log") |
    tar -x -C "$source"
  if ! { "${PYTHON:-python3}" -m venv "$folder/venv" &&
    "$python" -m pip install --no-cache-dir "torch==$version" &&
    (cd "$source" && "$python" -m pip install --no-cache-dir ".[test]"); } &>>"$log"; then
    echo "$version|-|-|-|-|0|0|0|installation failed"
    return
  fi
  # From here on the installed package is the only one that can be imported.
  rm -rf "$source/wsss_fast" "$source/build" "$source"/*.egg-info
  (
    cd "$source"
    export WSSS_FAST_CACHE=$folder/cache WSSS_FAST_DATA=$folder/data
    COLUMNS=500 "$folder/venv/bin/wsss-fast" info >"$info"
    cat "$info" >&2
    timeout "$TEST_SECONDS" "$python" -m pytest -q -p no:cacheprovider \
      --junitxml="$OUT/$version.xml" "${tests[@]}" >&2
  ) 2>>"$log" || code=$?
  for key in torch python compiler backend; do printf '%s|' "$(field $key "$info")"; done
  printf '%s|' "$(field build_seconds "$info" | sed 's/\(\.[0-9]\).*/\1/; s/None/-/')"
  "$python" -c "$SUMMARY" "$OUT/$version.xml" "$code"
}

table=$OUT/table.md
heads='torch | Python | compiler | backend | cold build, s | passed | failed | skipped | failures'
printf '| %s |\n' "$heads" >"$table"
printf '|---|---|---|---|---|---|---|---|---|\n' >>"$table"
status=0
for version in "${versions[@]}"; do
  rm -f "$OUT/$version.xml"
  row=$(one_version "$version") || row="$version|-|-|-|-|0|0|0|this script failed"
  IFS='|' read -r torch python compiler backend seconds passed failed skipped names <<<"$row"
  [[ $backend != reference ]] || names="the native build failed${names:+, $names}"
  echo "torch ${torch:-$version}, Python ${python:--}, ${compiler:--}: ${backend:-no backend}," \
    "built in ${seconds:--} s; $passed passed, $failed failed, $skipped skipped${names:+: $names}"
  echo "| ${torch:-$version} | ${python:--} | ${compiler:--} | ${backend:--} | ${seconds:--}" \
    "| $passed | $failed | $skipped | $names |" >>"$table"
  [[ $backend == native && $passed != 0 && $failed == 0 && -z $names ]] || status=1
  if [[ ${KEEP-} == 1 ]]; then
    echo "kept: $work/$version/venv"
  else
    rm -rf "${work:?}/$version"
  fi
done
echo "$table; the logs are in the same folder"
exit "$status"
