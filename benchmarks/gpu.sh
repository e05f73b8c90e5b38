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
    [[ $(basename "$entry") == __pycache__ ]] || ln -s "$(realpath "$entry")" "$farm/infodcl_geo/"
done
export PYTHONPATH="$farm:$root/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
if ! "$python" -P -c 'import infodcl_geo.models.base, infodcl_geo.nn.psnet, infodcl_geo.training.sampling' 2>/dev/null; then
    # What is timed needs few packages, only other files of its rooms need more: leave the rooms' own lists empty.
    for room in "$root"/infodcl_geo/*/; do
        room=$(basename "$room")
        [[ $room != kernels && -e "$root/infodcl_geo/$room/__init__.py" ]] || continue
        rm "$farm/infodcl_geo/$room"
        mkdir "$farm/infodcl_geo/$room"
        ln -s "$root/infodcl_geo/$room"/* "$farm/infodcl_geo/$room/"
        rm -f "$farm/infodcl_geo/$room/__init__.py"
        touch "$farm/infodcl_geo/$room/__init__.py"
    done
fi

if [[ " $* " == *" --device cpu "* ]]; then
    echo "a rehearsal without a GPU: the kernel tests are left to pytest" >&2
elif "$python" -P -c 'import hypothesis, pytest' 2>/dev/null; then
    # A kernel whose tests fail is not timed. With -P, as else the checkout would come before the links.
    tests=()
    for file in "$root"/tests/test_*_triton.py; do tests+=("$file"); done
    "$python" -P -m pytest -q -p no:cacheprovider -m "not slow" --rootdir "$root" "${tests[@]}"
else
    echo "pytest or hypothesis is not installed: only the checks that gpu.py makes before each timing are run" >&2
fi
"$python" "$root/benchmarks/gpu.py" "$@"
