#!/usr/bin/env bash
# Kernel tests and timings on the GPU of this machine, from a bare checkout: nothing is installed, and the environment
# needs no more than torch, triton, torch-geometric and numpy. About ten minutes.
#
#     benchmarks/gpu.sh --out DIR [further arguments of benchmarks/gpu.py]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}

# The package as an installation would lay it out: infodcl_geo with kernels/ inside, by links.
farm=$(mktemp -d)
trap 'rm -rf "$farm"' EXIT
mkdir "$farm/infodcl_geo"
for entry in "$root"/infodcl_geo/*; do
    [[ $(basename "$entry") == __pycache__ ]] || ln -s "$entry" "$farm/infodcl_geo/"
done
ln -s "$root/kernels" "$farm/infodcl_geo/kernels"
if ! "$python" -c 'import pandas, scipy' 2>/dev/null; then
    # What is timed needs neither, only other files that the same packages import as well: leave their lists empty.
    for package in models nn; do
        rm "$farm/infodcl_geo/$package"
        mkdir "$farm/infodcl_geo/$package"
        ln -s "$root/infodcl_geo/$package"/[!_]*.py "$farm/infodcl_geo/$package/"
        touch "$farm/infodcl_geo/$package/__init__.py"
    done
fi
export PYTHONPATH="$farm:$root/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1

if [[ " $* " == *" --device cpu "* ]]; then
    echo "a rehearsal without a GPU: the kernel tests are left to pytest" >&2
elif "$python" -c 'import pytest' 2>/dev/null; then
    # A kernel whose tests fail is not timed.
    tests=()
    for file in "$root"/tests/test_*_triton.py; do tests+=("$file"); done
    "$python" -m pytest -q -p no:cacheprovider -m "not slow" --rootdir "$root" "${tests[@]}"
else
    echo "pytest is not installed: only the checks that gpu.py makes before each timing are run" >&2
fi
"$python" "$root/benchmarks/gpu.py" "$@"
