"""Does the item term help, and whom? Baselines and InfoDCL, each without and with it, user by user.

    python benchmarks/studies/item_term/table.py ../shared/data/office --seeds 0 1 2
    python benchmarks/studies/item_term/table.py ../shared/data/office --seeds 0 1 2 --ablations

Everything that is trained starts from the same pretrained vectors. For each model and seed the epoch is chosen on
validation, then form, penalty and weight of the term; the test split is scored once without and once with the term, and
nothing is chosen by it. Runs are kept in ``results`` and not repeated.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infodcl_geo.comparison import Entry, TableFile, describe, entry_of
from infodcl_geo.configuration import Config, configure
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.data.options import DataOptions
from infodcl_geo.evaluation.significance import differences
from infodcl_geo.experiment import fit, score
from infodcl_geo.models.item_term import ItemTerm
from infodcl_geo.outcome import Run
from infodcl_geo.selection import add_term, choose_l2, fit_terms
from infodcl_geo.training.loop import rank

METRICS = ("recall@20", "ndcg@20")
KS = (20,)
EASE_CHANNEL: dict[str, Any] = {"channels": "ease", "reconstruction": 0.05}
BOTH_CHANNELS: dict[str, Any] = {"channels": "user,ease", "reconstruction": 0.05}


def configurations(data: Interactions, ablations: bool) -> dict[str, Config]:
    """What is compared, by label."""
    if ablations:
        changes: dict[str, dict[str, Any]] = {
            "EASE channel": {},
            "w/o spectral rectification": {"spectral": False},
            "w/o contextual re-encoding": {"contextual": False},
            "w/o PSNet (Gaussian noise)": {"psnet": False},
            "w/o balance": {"balance": 0.0},
        }
        return {label: configure("infodcl", **EASE_CHANNEL, **change) for label, change in changes.items()}
    return {
        "vectors": configure("svd"),
        "EASE": configure("ease", l2=choose_l2(data)[0].value),
        "MF": configure("mf", "pretrained"),
        "InfoDCL": configure("infodcl"),
        "InfoDCL, EASE channel": configure("infodcl", **EASE_CHANNEL),
        "InfoDCL, both channels": configure("infodcl", **BOTH_CHANNELS),
        "LightGCN": configure("lightgcn", "pretrained"),
        "XSimGCL": configure("xsimgcl", "pretrained"),
    }


def entries_of(
    data: Interactions, label: str, config: Config, terms: dict[str, ItemTerm], table: TableFile, device: str
) -> list[Entry]:
    """The runs without and with the term, trained once, or as they are kept."""
    labels = [label] if label == "EASE" else [label, f"{label} + term"]
    keys = [describe(data, config, KS, False, **({"term": "auto"} if "+" in name else {})) for name in labels]
    studied = config.recipe.studied
    kept = [table.find(key, METRICS, name, studied=studied) for key, name in zip(keys, labels, strict=True)]
    if all(kept):
        return [entry for entry in kept if entry is not None]
    begin = time.process_time()
    plain = score(data, fit(data, config, ks=KS, progress=False, device=device), ks=KS, device=device)
    seconds = time.process_time() - begin
    runs: list[Run] = [plain]
    choice: dict[str, float] = {}
    if len(labels) > 1:
        begin = time.process_time()
        found = add_term(plain.scorer, data, terms=terms, device=device)
        termed = replace(plain, scorer=found.scorer, result=replace(plain.result))
        termed.result.validation = rank(data, found.scorer, "valid", ks=KS, device=device).mean()
        runs.append(score(data, termed, ks=KS, device=device))
        choice = {"term_slim": int(found.form == "slim"), "term_l2": found.l2 or 0, "term_weight": found.weight}
        choice["term_cpu_seconds"] = round(time.process_time() - begin, 1)
    result = []
    for name, key, one in zip(labels, keys, runs, strict=True):
        entry = entry_of(one, data, key, METRICS, name)
        row = {**entry.row, "cpu_seconds": round(seconds, 1), **(choice if "+" in name else {})}
        entry = replace(entry, row=row)
        table.add(entry)
        result.append(entry)
        print(
            f"{data.name}, {name}, seed {config.training.seed}: valid {row['valid ndcg@20']:.4f}, test "
            f"{row['test recall@20']:.4f} / {row['test ndcg@20']:.4f}, epoch {row['best_epoch']} of "
            f"{row['epochs_run']}, {seconds:.0f} s of CPU {choice if '+' in name else ''}",
            flush=True,
        )
    return result


def report(entries: list[Entry]) -> None:
    """Means over the seeds, and differences of NDCG@20 user by user to the rivals that the question names."""
    by_label: dict[str, list[Entry]] = {}
    for entry in entries:
        by_label.setdefault(entry.label, []).append(entry)
    print("\n| | seeds | validation NDCG@20 | test Recall@20 | test NDCG@20 |\n|---|---|---|---|---|")
    for label, group in by_label.items():
        cells = [
            f"{np.mean([e.row[name] for e in group]):.4f}"
            for name in ("valid ndcg@20", "test recall@20", "test ndcg@20")
        ]
        print(f"| {label} | {len(group)} | {' | '.join(cells)} |")
    valid = {label: float(np.mean([e.row["valid ndcg@20"] for e in group])) for label, group in by_label.items()}
    studied = [label for label, group in by_label.items() if group[0].studied]
    best = max(studied, key=lambda label: valid[label])
    # Of the variants of InfoDCL validation chooses one; it is tested against each rival, adjusted for all of them.
    rivals = [e for e in entries if not e.studied or e.label == best]
    print(f"\n{best} minus each, test NDCG@20 (paired t over users, Holm):")
    for label, gap in differences(rivals, "ndcg@20", best).items():
        print(f"  {label}: {-gap.mean:+.4f}, p {gap.p_value:.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ablations", action="store_true", help="InfoDCL with the EASE channel, without its parts")
    parser.add_argument("--minutes", type=float, help="of CPU, after which nothing more is trained")
    parser.add_argument("--only", nargs="+", help="labels of the models that are run")
    parser.add_argument("--patience", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for folder in arguments.folders:
        data = DataOptions(data=folder).load()
        kind = "ablations" if arguments.ablations else "table"
        table = TableFile(Path(arguments.out) / f"{kind}-{data.name}.csv")
        begin = time.process_time()
        terms = fit_terms(data, device=arguments.device)
        print(
            f"{data!r}: terms in {time.process_time() - begin:.0f} s of CPU, EASE with l2 {terms['ease'].l2}",
            flush=True,
        )
        entries = []
        for seed in arguments.seeds:
            for label, config in configurations(data, arguments.ablations).items():
                if arguments.only and label not in arguments.only:
                    continue
                if config.recipe.closed_form and seed != arguments.seeds[0]:
                    continue
                if arguments.minutes is not None and time.process_time() > 60 * arguments.minutes:
                    print(f"out of time before {label}, seed {seed}")
                    continue
                config = config if config.recipe.closed_form else config.changed(seed=seed, patience=arguments.patience)
                entries += entries_of(data, label, config, terms, table, arguments.device)
        if any(entry.studied for entry in entries):
            report(entries)


if __name__ == "__main__":
    main()
