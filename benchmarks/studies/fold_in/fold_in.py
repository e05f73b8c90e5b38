"""Users folded in against the same users trained: ``python benchmarks/studies/fold_in/fold_in.py``.

A fifth of the users is kept out of training. Their lists are made from their training items alone, by a model that
never saw them, and scored on their test items beside the lists of a model that was trained on everybody.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from tabulate import tabulate

from infodcl_geo import Recommender, configure, load_interactions, run
from infodcl_geo.data.generated import demo
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.evaluation.lists import Lists, score_lists

EPOCHS = {"mf": 60, "lightgcn": 60, "infodcl": 20, "simgcl": 40, "diffrec": 60}
MODELS = ("popularity", "svd", "ease", "gfcf", "diffrec", "mf", "lightgcn", "simgcl", "infodcl")
K = 20


def without(data: Interactions, held: torch.Tensor) -> Interactions:
    parts = {name: getattr(data, name) for name in ("train", "valid", "test")}
    return replace(data, **{name: part[:, ~held[part[0]]] for name, part in parts.items()})


def scored(data: Interactions, users: torch.Tensor, lists: list[torch.Tensor]) -> tuple[float, float]:
    rows = torch.repeat_interleave(users, torch.tensor([len(items) for items in lists]))
    found = score_lists(Lists(rows.numpy(), torch.cat(lists).numpy()), data, ks=(K,)).ranking.mean()
    return found[f"recall@{K}"], found[f"ndcg@{K}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a folder or a file; the generated data set otherwise")
    parser.add_argument("--models", nargs="+", default=MODELS)
    options = parser.parse_args()
    data = load_interactions(Path(options.data)) if options.data else demo().interactions
    held = torch.zeros(data.num_users, dtype=torch.bool)
    held[torch.randperm(data.num_users, generator=torch.Generator().manual_seed(0))[: data.num_users // 5]] = True
    only = replace(data, test=data.test[:, held[data.test[0]]])
    users = only.test[0].unique()
    raw = data.user_ids.decode(users.numpy()).tolist()
    histories = [data.item_ids.decode(data.train[1, data.train[0] == user].numpy()) for user in users]
    rows = []
    for name in options.models:
        settings = {} if name not in EPOCHS else {"epochs": EPOCHS[name]}
        numbers = []
        for training in (data, without(data, held)):
            outcome = run(training, configure(name, **settings), progress=False)
            model = Recommender.from_run(outcome, training)
            whole = training is data
            answers = model.recommend(raw, 2 * K) if whole else model.recommend_for(histories, 2 * K)
            lists = [torch.from_numpy(data.item_ids.encode(answer.items)) for answer in answers]
            numbers += [f"{value:.4f}" for value in scored(only, users, lists)]
        rows.append([name, *numbers])
        print(tabulate(rows[-1:], tablefmt="plain"), flush=True)
    names = [f"{how}, {metric}@{K}" for how in ("trained", "folded in") for metric in ("recall", "ndcg")]
    print(tabulate(rows, ["model", *names], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
