"""Items that have features and no interactions: ``python benchmarks/studies/cold_items/cold_items.py --data tiktok``.

A fifth of the items is hidden: all their training and validation interactions are taken out, their features stay. A
model is trained on the rest. The hidden items are then ranked among themselves, for each user who took some of them in
training, validation or test, by the user's vector and a vector of the item that is

- ``own``: the row that the model trained for it, which no interaction, but the generator's contrast and reconstruction
  reached (they pass every item);
- ``generated``: what the generator makes of nothing but noise and the item's metadata: the informative noise at the
  last diffusion step, denoised at once, averaged over draws;
- ``similar``: the mean of the trained vectors of the ``--similar`` items with the most similar features;
- ``random``: any, for comparison.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from infodcl_geo import configure, load_interactions
from infodcl_geo.channels.modal import Modal, load_features
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.evaluation.lists import Lists, score_lists
from infodcl_geo.experiment import fit

K = 20


def hidden_items(data: Interactions, share: float) -> Tensor:
    """A random share of the items that have training interactions, bool ``[N]``."""
    taken = data.train[1].unique()
    chosen = taken[torch.randperm(len(taken), generator=torch.Generator().manual_seed(0))[: int(share * len(taken))]]
    return torch.zeros(data.num_items, dtype=torch.bool).index_fill_(0, chosen, True)


def without(data: Interactions, hidden: Tensor) -> tuple[Interactions, Interactions]:
    """The data without interactions of the hidden items, and with these as its test split alone."""
    parts = {name: getattr(data, name) for name in ("train", "valid", "test")}
    rest = replace(data, **{name: part[:, ~hidden[part[1]]] for name, part in parts.items()})
    users = rest.train[0].unique()
    held = torch.cat([part[:, hidden[part[1]]] for part in parts.values()], dim=1)
    held = held[:, torch.isin(held[0], users)].unique(dim=1)  # sorted by user and item, too
    return rest, replace(rest, test=held)


def of_similar(items: Tensor, features: Tensor, hidden: Tensor, count: int) -> Tensor:
    """Means of the vectors of the items with interactions whose features are most similar, for the hidden ones."""
    unit = F.normalize(features - features[~hidden].mean(0), dim=1)
    near = (unit[hidden] @ unit[~hidden].T).topk(count, dim=1).indices
    return items[~hidden][near].mean(1)


def generated(model: torch.nn.Module, hidden: Tensor, draws: int) -> Tensor | None:
    """What the generator of a model makes of the hidden items' metadata alone; none where it has no such generator."""
    channels = getattr(model, "channels", None)
    if channels is None or not hasattr(model, "diffusion"):
        return None
    rows = hidden.nonzero()[:, 0]
    last = torch.full((len(rows),), model.diffusion.steps)
    nothing = torch.zeros(len(rows), model.dim)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made = [
            channel(nothing, rows, last, torch.randn(nothing.shape, generator=generator), model.diffusion)
            for channel in channels.values()
            for _ in range(draws)
        ]
    return torch.stack(made).mean(0)


def scored(held: Interactions, users: Tensor, hidden: Tensor, vectors: Tensor) -> list[str]:
    """Recall and NDCG of the hidden items, ranked among themselves by the inner product with unit vectors."""
    who, rows = held.test[0].unique(), hidden.nonzero()[:, 0]
    best = (users[who] @ F.normalize(vectors, dim=1).T).topk(K, dim=1).indices
    lists = Lists(who.repeat_interleave(K).numpy(), rows[best].reshape(-1).numpy())
    found = score_lists(lists, held, ks=(K,)).ranking.mean()
    return [f"{found[f'{name}@{K}']:.4f}" for name in ("recall", "ndcg")]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the interactions")
    parser.add_argument("--features", required=True, help="file of features, rows are items")
    parser.add_argument("--models", nargs="+", default=["infodcl", "simdiff"])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--similar", type=int, default=20)
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args(argv)
    data = load_interactions(Path(options.data))
    features = load_features(options.features, data)
    hidden = hidden_items(data, 0.2)
    rest, held = without(data, hidden)
    print(f"{int(hidden.sum())} of {data.num_items} items hidden, {held.test.size(1)} interactions of them to find")
    rows = []
    for name in options.models:
        run = fit(rest, configure(name, epochs=options.epochs), channels=[Modal(features)], progress=False)
        state = run.state()
        users, items = state["users"], state["items"]
        noise = torch.randn(int(hidden.sum()), users.size(1), generator=torch.Generator().manual_seed(1))
        ways = {
            "own": items[hidden],
            "generated": generated(run.model, hidden, options.draws),
            "similar": of_similar(items, features.values, hidden, options.similar),
            "random": noise,
        }
        for way, vectors in ways.items():
            if vectors is not None:
                rows.append([name, way, *scored(held, users, hidden, vectors)])
                print(*rows[-1], flush=True)
    print(tabulate(rows, ["model", "vector", f"recall@{K}", f"ndcg@{K}"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
