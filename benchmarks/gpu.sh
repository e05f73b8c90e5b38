#!/usr/bin/env bash
# Kernel tests and timings on the GPU of this machine, from a checkout. The environment needs what the library needs and
# triton; no other extra. About ten minutes.
#
#     benchmarks/gpu.sh --out DIR [further arguments of benchmarks/gpu.py]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}

export PYTHONPATH="$root:$root/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
if ! missing=$("$python" -P -c 'import infodcl_geo.experiment' 2>&1); then
    echo "gpu.sh: the library cannot be imported (${missing##*$'\n'}); install what it needs: pip install --editable '.[triton]'" >&2
    exit 1
fi

if [[ " $* " == *" --device cpu "* ]]; then
    echo "a rehearsal without a GPU: the kernel tests are left to pytest" >&2
elif "$python" -P -c 'import hypothesis, pytest' 2>/dev/null; then
    # A kernel whose tests fail is not timed.
    tests=()
    for file in "$root"/tests/test_*_triton.py; do tests+=("$file"); done
    "$python" -P -m pytest -q -p no:cacheprovider -m "not slow" --rootdir "$root" "${tests[@]}"
else
    echo "pytest or hypothesis is not installed: only the checks that gpu.py makes before each timing are run" >&2
fi
"$python" "$root/benchmarks/gpu.py" "$@"
