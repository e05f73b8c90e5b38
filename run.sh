#!/usr/bin/env bash
# Sets up a virtual environment in .venv and runs one of:
#   bash run.sh [OPTIONS]       train popularity, LightGCN and InfoDCL on the generated data set and print a table;
#                               OPTIONS are those of "infodcl-geo compare", such as --data PATH
#   bash run.sh test [OPTIONS]  build torch-sparse and run the tests without and with it; OPTIONS go to pytest
# Needs Python 3.11 or newer, pip and bash; "test" also a C++ compiler where torch-sparse has no wheel.
set -euo pipefail
cd "$(dirname "$0")"

command=compare
if [ "${1:-}" = test ]; then
    command=test
    shift
fi

find_python() {
    local name
    for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "run.sh: no Python 3.11 or newer found; set PYTHON to one" >&2
    exit 1
}

reachable() { # URL
    .venv/bin/python - "$1" <<'PY'
import sys, urllib.request
try:
    urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=5)
except Exception:
    sys.exit(1)
PY
}

install() { # EXTRAS
    local stamp=".venv/installed$1"
    [ "$stamp" -nt pyproject.toml ] && return
    if [ ! -x .venv/bin/python ]; then
        echo "run.sh: making .venv" >&2
        "$(find_python)" -m venv .venv
    fi
    if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
        # Without a GPU the CPU build is a tenth of the download; PyTorch's own page has it for every platform.
        local page=()
        if ! command -v nvidia-smi >/dev/null 2>&1 && reachable https://download.pytorch.org/whl/cpu/torch/; then
            page=(--extra-index-url https://download.pytorch.org/whl/cpu)
        fi
        echo "run.sh: installing torch" >&2
        .venv/bin/pip install --quiet --disable-pip-version-check ${page[@]+"${page[@]}"} torch==2.13.0
    fi
    echo "run.sh: installing infodcl-geo$1" >&2
    .venv/bin/pip install --quiet --disable-pip-version-check --editable ".$1"
    touch "$stamp"
}

torch_sparse_works() {
    .venv/bin/python -c 'import torch_sparse, torch_scatter' 2>/dev/null
}

build_torch_sparse() {
    local pip=(.venv/bin/pip install --quiet --disable-pip-version-check --no-deps)
    local page
    page="https://data.pyg.org/whl/$(.venv/bin/python -c 'import torch
v = torch.__version__.split("+")[0]
print(f"torch-{v}+" + ("cu" + torch.version.cuda.replace(".", "") if torch.version.cuda else "cpu"))').html"
    if reachable "$page"; then
        echo "run.sh: looking for wheels of torch-scatter and torch-sparse at $page" >&2
        "${pip[@]}" --only-binary=:all: --no-index --find-links "$page" torch-scatter torch-sparse && return
    fi
    if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
        echo "run.sh: torch-sparse has no wheel for this platform and there is no C++ compiler to build it" >&2
        exit 1
    fi
    echo "run.sh: building torch-scatter and torch-sparse side by side; about 20 minutes the first time," >&2
    echo "run.sh: seconds afterwards, because pip keeps the wheels" >&2
    .venv/bin/pip install --quiet --disable-pip-version-check setuptools wheel
    pip+=(--no-build-isolation "$@")
    local scatter
    "${pip[@]}" torch-scatter &
    scatter=$!
    "${pip[@]}" torch-sparse
    wait "$scatter"
}

if [ "$command" = test ]; then
    install "[test]"
    echo "run.sh: tests without torch-sparse" >&2
    INFODCL_GEO_TORCH_SPARSE=0 OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --dist worksteal "$@"
    if ! torch_sparse_works; then
        build_torch_sparse
        # A wheel kept from another torch installs but does not load.
        torch_sparse_works || build_torch_sparse --no-cache-dir --force-reinstall
    fi
    .venv/bin/python -c 'import torch_sparse, torch_scatter'
    echo "run.sh: tests with torch-sparse, but for those of files and commands, which know nothing of it" >&2
    INFODCL_GEO_TORCH_SPARSE=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --dist worksteal \
        --ignore tests/faults --ignore tests/fuzz --ignore tests/data "$@"
else
    install ""
    .venv/bin/infodcl-geo compare "$@"
fi
