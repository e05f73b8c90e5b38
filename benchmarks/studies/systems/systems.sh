#!/usr/bin/env bash
# Every model with the same budget: a search on validation, then three seeds of what it found, scored once on test.
#
#     benchmarks/studies/systems/systems.sh DATA OUT [MODEL ...]
#
# DATA is a folder in any format that the library reads, OUT a folder for settings.yaml (the best options), settings.csv
# (all trials), journal.log and runs.csv (the runs). It goes on where it was stopped, in any number of sittings: finished
# trials and runs are kept, and a model whose runs are all there costs nothing. Without models all of them.
#
# TRIALS   finished trials of each search (8), of which one from each start has the model's defaults
# EPOCHS   of a trial, at most (20): a search of short trials, from which the best trains in full
# LONG     epochs of the three runs, at most (200), stopped after PATIENCE (20) without a better validation
# EXTRA    further words for both commands, such as "--channels modal --features DATA/image_feat.npy"
set -u
data=$1 out=$2
shift 2
mkdir -p "$out"
python - "$@" <<'PYTHON' | while read -r model closed searched; do
import sys
from infodcl_geo.models import RECIPES, find_recipe

for recipe in map(find_recipe, sys.argv[1:]) if sys.argv[1:] else RECIPES:
    print(recipe.name, int(recipe.closed_form), int(recipe.search is not None))
PYTHON
    short=(--epochs "${EPOCHS:-20}" --eval_every 4 --patience 12 --matmul_precision medium)
    long=(--epochs "${LONG:-200}" --eval_every 5 --patience "${PATIENCE:-20}" --matmul_precision medium)
    settings=(--settings "$out/settings.yaml")
    if [ "$closed" = 1 ]; then short=() long=(); fi
    if [ "$searched" = 1 ]; then
        python -m infodcl_geo tune --data "$data" --models "$model" --trials "${TRIALS:-8}" "${short[@]}" \
            --journal "$out/journal.log" --out "$out/settings.yaml" ${EXTRA:-} </dev/null || continue
    else
        settings=()
    fi
    python -m infodcl_geo compare --data "$data" --models "$model" "${settings[@]}" --seeds 0 1 2 "${long[@]}" \
        --progress false --out "$out/runs.csv" ${EXTRA:-} </dev/null
done
