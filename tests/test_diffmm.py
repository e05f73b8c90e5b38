"""DiffMM: its embeddings and its objective against dense algebra, and the graphs that it draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import Graph, csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.diffmm import DiffMM, DiffMMOptions, looped_graph

USERS, ITEMS, DIM = 4, 5, 3
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def dense(graph: Graph) -> Tensor:
    pointers, col, value, shape = csr_parts(graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=True).to_dense()


def looped(pairs: Tensor) -> Tensor:
    a = torch.eye(USERS + ITEMS)
    a[pairs[0], USERS + pairs[1]] = a[USERS + pairs[1], pairs[0]] = 1
    scale = a.sum(1).rsqrt()
    return scale[:, None] * a * scale


def built(modalities: int = 2, **options: Any) -> DiffMM:
    features = {name: torch.randn(ITEMS, 3 + k) for k, name in enumerate("abc"[:modalities])}
    graph = normalized_adjacency(PAIRS, USERS, ITEMS)
    return DiffMM(graph, USERS, ITEMS, features, dim=DIM, l2=0.1, hidden=4, **options)


def test_graph_with_loops() -> None:
    torch.testing.assert_close(dense(looped_graph(PAIRS, USERS, ITEMS)), looped(PAIRS))


@pytest.mark.parametrize(("modalities", "anchor"), [(1, "modal"), (2, "main"), (3, "modal")])
def test_embeddings_and_objective(modalities: int, anchor: str) -> None:
    model = built(modalities, anchor=anchor, contrast=0.3, temperature=0.4, generated=2, num_layers=2, injection=0.7)
    with torch.no_grad():
        model.modality.copy_(torch.linspace(0.5, -0.5, modalities))
    a, ids, users = looped(PAIRS), model.nodes(), model.user_embedding.weight
    fused, views, recon = torch.zeros_like(ids), [], torch.zeros(())
    deep = torch.eye(USERS + ITEMS) + a + a @ a
    generator = torch.Generator().manual_seed(3)
    x = torch.zeros(2, ITEMS)  # of user 2 and of user 0: the batch has their first items
    x[0, 2] = x[1, 0] = x[1, 1] = 1
    for m, (diffusion, projection) in enumerate(zip(model.diffusions, model.projections, strict=True)):
        rows = torch.zeros(USERS, ITEMS)
        rows[PAIRS[0], PAIRS[1]] = 1
        chosen = diffusion.predict(torch.arange(USERS)).topk(2).indices
        drawn = looped(torch.stack([torch.arange(USERS).repeat_interleave(2), chosen.reshape(-1)]))
        modal = F.normalize(projection(), dim=1)
        mixed = torch.cat([users, modal])
        h = a @ mixed
        h = h + a @ torch.cat([h[:USERS], model.item_embedding.weight]) + 0.2 * drawn @ ids
        fused = fused + model.modality.softmax(0)[m] * h
        views.append(deep @ drawn @ mixed)
        t = torch.randint(1, 6, (2,), generator=generator)
        level = 1 - 0.1 * torch.linspace(1e-4, 0.02, 5)[t - 1][:, None]
        noised = level.sqrt() * x + (1 - level).sqrt() * torch.randn(2, ITEMS, generator=generator)
        kept = torch.rand(2, ITEMS, generator=generator) >= 0.5
        out = diffusion(noised * kept * 2, t)
        elbo = (diffusion.step_weight[t - 1] * (out - x).square().mean(1)).mean()
        recon = recon + elbo + 0.7 * (out @ modal - x @ model.item_embedding.weight).square().mean()
    ranked = deep @ fused + 0.5 * F.normalize(fused, dim=1)
    torch.testing.assert_close(torch.cat(model.embeddings()), ranked.detach())
    terms = model.loss(BATCH, torch.Generator().manual_seed(3))
    u, i, j = ranked[BATCH.users], ranked[USERS + BATCH.positives], ranked[USERS + BATCH.negatives]
    torch.testing.assert_close(terms["bpr"], -F.logsigmoid((u * (i - j)).sum(1)).mean())
    torch.testing.assert_close(terms["recon"], recon)
    pairs = [(views[0], views[1]), (views[0], views[2]), (views[1], views[2])] if modalities == 3 else []
    nce = torch.zeros(())
    for one, other in pairs or [(ranked, view) for view in views]:
        for rows, part in ((BATCH.users, slice(0, USERS)), (BATCH.positives, slice(USERS, None))):
            logits = F.normalize(one[part][rows]) @ F.normalize(other[part]).T / 0.4
            nce = nce + F.cross_entropy(logits, rows)
    torch.testing.assert_close(terms["nce"], 0.3 * nce, rtol=1e-4, atol=1e-5)
    assert set(terms) == {"bpr", "reg", "nce", "recon"}


def test_the_diffusion_trains_the_denoisers_alone() -> None:
    model = built()
    model.loss(BATCH, torch.Generator().manual_seed(1))["recon"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("diffusions"), name
    # No user's first item is in this batch.
    empty = Batch(torch.tensor([0]), torch.tensor([1]), torch.tensor([3]), BATCH.anchors, 1.0)
    assert model.loss(empty)["recon"] == 0


def test_graphs_are_drawn_anew_and_go_into_a_checkpoint() -> None:
    model = built(every=1)
    model.loss(BATCH)
    first = [chosen.clone() for chosen in model.chosen]
    with torch.no_grad():
        for diffusion in model.diffusions:
            diffusion.decoder.bias.copy_(torch.linspace(9, 0, ITEMS).roll(2 + int(first[0][0])))
    other = built(every=1)
    other.load_state_dict(model.state_dict())
    other.load_training_state(model.training_state())
    for one in (model, other):
        one.loss(BATCH)  # pairs 4 to 6, begun in the epoch of the first five
        assert all(torch.equal(a, b) for a, b in zip(first, one.chosen, strict=True))
        torch.testing.assert_close(dense(one.drawn[0]), dense(one._graph(first[0])))
        one.loss(BATCH)
        assert any(not torch.equal(a, b) for a, b in zip(first, one.chosen, strict=True))


def test_errors() -> None:
    for bad in (
        {"dropout": 1.0}, {"anchor": "x"}, {"generated": 0}, {"temperature": 0.0}, {"steps": 0}, {"every": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            DiffMMOptions(**bad)  # type: ignore[arg-type]
