"""LGMRec: its embeddings and its objective against dense algebra."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.lgmrec import LGMRec, LGMRecOptions

USERS, ITEMS, DIM = 4, 5, 3
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def built(modalities: int, **options: Any) -> LGMRec:
    features = {name: torch.randn(ITEMS, 3 + k) for k, name in enumerate("abc"[:modalities])}
    graph = normalized_adjacency(PAIRS, USERS, ITEMS)
    return LGMRec(graph, USERS, ITEMS, features, dim=DIM, l2=0.1, hyperedges=2, **options)


def adjacency(model: LGMRec) -> Tensor:
    pointers, col, value, shape = csr_parts(model.graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=True).to_dense()


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_embeddings(modalities: int) -> None:
    model = built(modalities, hyper_layers=2, alpha=0.4, gumbel=0.7, num_layers=1)
    a, x = adjacency(model), model.nodes()
    mean = torch.zeros(USERS, ITEMS)
    mean[PAIRS[0], PAIRS[1]] = 1
    mean = mean / mean.sum(1, keepdim=True)
    ids = local = (x + a @ x) / 2
    total = torch.zeros_like(x)
    for projection, hyperedges in zip(model.projections, model.hyperedges, strict=True):
        f = projection()
        local = local + F.normalize(a @ a @ torch.cat([mean @ f, f]), dim=1)
        h = hyperedges.features @ hyperedges.linear.weight.T
        of_items, of_users = torch.softmax(h / 0.7, 1), torch.softmax(mean @ h / 0.7, 1)
        layer = of_items @ of_items.T @ ids[USERS:]
        total = total + torch.cat([of_users @ of_items.T @ layer, of_items @ of_items.T @ layer])
    expected = local + 0.4 * F.normalize(total, dim=1)
    torch.testing.assert_close(torch.cat(model.embeddings()), expected.detach())


def test_objective() -> None:
    model = built(3, contrast=0.3, temperature=0.5, alpha=0.4)
    ids, local = model.local()
    terms = model.loss(BATCH, torch.Generator().manual_seed(3))
    views = model.through_hyperedges(ids[USERS:], torch.Generator().manual_seed(3), noisy=True)
    ranked = local + 0.4 * F.normalize(sum(views), dim=1)
    u, i, j = ranked[BATCH.users], ranked[USERS + BATCH.positives], ranked[USERS + BATCH.negatives]
    torch.testing.assert_close(terms["bpr"], -F.logsigmoid((u * (i - j)).sum(1)).mean())
    nce = torch.zeros(())
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for rows, part in ((BATCH.users, slice(0, USERS)), (BATCH.positives, slice(USERS, None))):
            logits = F.normalize(views[one][part][rows]) @ F.normalize(views[other][part]).T / 0.5
            nce = nce + F.cross_entropy(logits, rows)
    torch.testing.assert_close(terms["nce"], 0.3 * nce, rtol=1e-4, atol=1e-5)
    assert set(built(1).loss(BATCH)) == {"bpr", "reg"}


def test_noise_is_gumbels() -> None:
    model = built(1, gumbel=1e-4)
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(20000, 3)
    chosen = model._softmax(logits, torch.Generator().manual_seed(0), True).mean(0)
    torch.testing.assert_close(chosen, logits[0].softmax(0), atol=0.02, rtol=0)


def test_errors() -> None:
    for bad in ({"dropout": 1.0}, {"hyperedges": 0}, {"gumbel": 0.0}, {"temperature": 0.0}, {"modal_layers": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            LGMRecOptions(**bad)  # type: ignore[arg-type]
