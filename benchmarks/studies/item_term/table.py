"""Does the item term help, and whom? MF and InfoDCL from pretrained vectors, each without and with it.

    python benchmarks/studies/item_term/table.py ../shared/data/office --seeds 0 1 2

For each model and seed: epoch by validation, then the term's weight by validation, for each form of the weights; the
test split is scored for all of them, and nothing is chosen by it.
"""

from __future__ import annotations

import argparse

import torch

from infodcl_geo.channels.ease import EaseChannel
from infodcl_geo.data.interactions import load_interactions
from infodcl_geo.experiment import default_config, fit
from infodcl_geo.graph.item_item import ease_weights, local_ease_graph, slim_graph
from infodcl_geo.models.item_term import ItemTerm, combined_scorer
from infodcl_geo.models.scoring import UserRows
from infodcl_geo.selection import choose_weight
from infodcl_geo.training.loop import rank

VARIANTS: dict[str, dict[str, float] | None] = {
    "MF": None,
    "InfoDCL, user channel": {},
    "InfoDCL, EASE channel": {},
    "InfoDCL, EASE channel, contrast .3": {"contrast": 0.3},
    "InfoDCL, EASE channel, reconstruction .05": {"reconstruction": 0.05},
    "InfoDCL, EASE channel, both": {"contrast": 0.3, "reconstruction": 0.05},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| data | model | seed | term | weight | NDCG@20 validation | Recall@20 test | NDCG@20 test |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in arguments.folders:
        data = load_interactions(folder)
        train, rows = (data.train, data.num_users, data.num_items), UserRows(data.train, data.num_users, data.num_items)
        terms = {f"EASE, l2 {l2:g}": ItemTerm(rows, ease_weights(*train, l2)) for l2 in (50.0, 100.0, 200.0)}
        terms["local EASE, l2 50, 50 neighbours"] = ItemTerm(rows, local_ease_graph(*train, 50.0, neighbours=50))
        terms["SLIM"] = ItemTerm(rows, slim_graph(*train))
        for name, options in VARIANTS.items():
            for seed in arguments.seeds:
                config = default_config("mf" if options is None else "infodcl", "pretrained", seed=seed)
                channels = [EaseChannel()] if "EASE" in name else None
                run = fit(data, config.changed(infodcl=options or {}), channels=channels, ks=(20,), progress=False)
                chosen = {form: choose_weight(run.scorer, term, data).value for form, term in terms.items()}
                for form, weight in {"none": 0.0, **chosen}.items():
                    term = terms.get(form, next(iter(terms.values())))
                    scorer = combined_scorer(run.scorer, term, weight, data.num_items)
                    valid, test = (rank(data, scorer, split, ks=(20,)).mean() for split in ("valid", "test"))
                    print(
                        f"| {data.name} | {name} | {seed} | {form} | {weight:g} | {valid['ndcg@20']:.4f} | "
                        f"{test['recall@20']:.4f} | {test['ndcg@20']:.4f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
