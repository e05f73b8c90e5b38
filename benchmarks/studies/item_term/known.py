"""Should training know the item term? Matrix factorisation whose BPR has the term as an offset of its logits.

    python benchmarks/studies/item_term/known.py ../shared/data/office --seeds 0 1 2 --form slim

For each weight c of the offset and each seed: NDCG@20 on validation without and with the term that is ranked with, its
form and weight chosen there as always, and Recall@20 and NDCG@20 on test. The offset is *plain* (of the weights
that are ranked with) or *cross-fitted*: the interactions are dealt into five folds, and a pair's offset is of weights
and histories without its fold.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo import configure, load_interactions
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.experiment import fit
from infodcl_geo.graph.item_item import ease_weights, slim_graph
from infodcl_geo.models import find_recipe
from infodcl_geo.models.base import Batch, BprRows
from infodcl_geo.models.item_term import ItemTerm
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.models.scoring import UserRows
from infodcl_geo.nn.losses import embedding_penalty
from infodcl_geo.selection import add_term, fit_terms
from infodcl_geo.training.loop import rank

FOLDS = 5
Offset = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Standardised scores of the positives and of the negatives of a batch."""


class Knowing(MatrixFactorization):
    """Matrix factorisation with ``weight`` times the offset in the logits of BPR."""

    weight: float
    offset: Offset

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        users = self.user_embedding(batch.users)
        positives, negatives = self.item_embedding(batch.positives), self.item_embedding(batch.negatives)
        known, unknown = self.offset(batch.users, batch.positives, batch.negatives)
        gap = (users * (positives - negatives)).sum(-1) + self.weight * (known - unknown)
        reg = embedding_penalty(users, positives, negatives)
        return {"bpr": self.bpr_weight * F.softplus(-gap).mean(), "reg": self.l2 * reg}

    def bpr_rows(self) -> BprRows | None:
        return None


def offsets(data: Interactions, form: str, l2: float) -> dict[str, Offset]:
    """The plain and the cross-fitted offset."""
    sizes = (data.num_users, data.num_items)

    def term(train: Tensor) -> ItemTerm:
        weights: Any = slim_graph(train, *sizes) if form == "slim" else ease_weights(train, *sizes, l2)
        return ItemTerm(UserRows(train, *sizes), weights)

    whole = term(data.train)
    fold = torch.randint(FOLDS, (data.train.size(1),), generator=torch.Generator().manual_seed(0))
    parts = [term(data.train[:, fold != k]) for k in range(FOLDS)]
    keys, order = (data.train[0] * data.num_items + data.train[1]).sort()
    fold = fold[order]

    def plain(users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        return whole.offsets(users, positives), whole.offsets(users, negatives)

    def crossed(users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        own = fold[torch.searchsorted(keys, users * data.num_items + positives)]
        found = torch.zeros(2, len(users))
        for k, part in enumerate(parts):
            here = own == k
            for row, items in enumerate((positives, negatives)):
                found[row, here] = part.offsets(users[here], items[here])
        return found[0], found[1]

    return {"plain": plain, "cross-fitted": crossed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--form", choices=["slim", "ease"], default="slim", help="of the offset's weights")
    parser.add_argument("--patience", type=int, default=25)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_interactions(arguments.folder)
    terms = fit_terms(data)
    found = offsets(data, arguments.form, terms["ease"].l2 or 100.0)
    variants: list[tuple[str, float, Offset | None]] = [("afterwards alone", 0.0, None)]
    variants += [(how, weight, offset) for how, offset in found.items() for weight in arguments.weights]
    for how, weight, offset in variants:
        kind = Knowing if offset is not None else MatrixFactorization
        made = type("Made", (kind,), {"weight": weight, "offset": staticmethod(offset)}) if offset else kind
        recipe = replace(
            find_recipe("mf"),
            name="knowing",
            build=lambda inputs, options, made=made: made(inputs.graph, *inputs.sizes, options=options),
        )
        for seed in arguments.seeds:
            begin = time.process_time()
            config = configure(recipe, "pretrained", seed=seed, patience=arguments.patience)
            run = fit(data, config, ks=(20,), progress=False)
            added = add_term(run.scorer, data, terms=terms)
            alone, both = (rank(data, s, "valid", ks=(20,)).mean()["ndcg@20"] for s in (run.scorer, added.scorer))
            test = rank(data, added.scorer, "test", ks=(20,)).mean()
            print(
                f"{data.name}, {how}, c {weight:g}, seed {seed}: valid {alone:.4f}, with the term {both:.4f}, test "
                f"{test['recall@20']:.4f} / {test['ndcg@20']:.4f}, {added.form} with w {added.weight:g}, epoch "
                f"{run.result.best_epoch}, {time.process_time() - begin:.0f} s of CPU",
                flush=True,
            )


if __name__ == "__main__":
    main()
