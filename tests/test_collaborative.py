"""Equations of the collaborative models on small cases, against naive twins or by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_ease import blocks, dense, random_pairs
from torch import Tensor

from infodcl_geo.configuration import configure
from infodcl_geo.errors import OptionError
from infodcl_geo.experiment import run
from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.cfdiff import CFDiff, CFDiffOptions
from infodcl_geo.models.cogcl import CoGCL, partner, residual_codes
from infodcl_geo.models.ddrm import DDRM
from infodcl_geo.models.giffcf import GiffCF, GiffCFOptions
from infodcl_geo.models.ngcf import NGCF
from infodcl_geo.models.recdcl import RecDCL, cross_correlation_loss, dimension_uniformity
from infodcl_geo.models.sgcl import SGCLOptions, symmetric_infonce
from infodcl_geo.models.simplex import SimpleX
from infodcl_geo.nn.diffusion import time_encoding

USERS, ITEMS = 6, 7
PAIRS = random_pairs(5, USERS, ITEMS)
GRAPH = normalized_adjacency(PAIRS, USERS, ITEMS)
NONE = torch.empty(0, dtype=torch.int64)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def batch() -> Batch:
    return Batch(*PAIRS, PAIRS[1].roll(1), NONE, 1.0)


def normal() -> Tensor:
    """The normalised user-item matrix."""
    x = dense(PAIRS, USERS, ITEMS).float()
    return x / (x.sum(1, keepdim=True).clamp(min=1).sqrt() * x.sum(0).clamp(min=1).sqrt())


def test_ngcf_layer_by_layer() -> None:
    model = NGCF(GRAPH, USERS, ITEMS, dim=3, num_layers=2)
    lower = torch.zeros(USERS + ITEMS, USERS + ITEMS)
    lower[:USERS, USERS:] = normal()
    lower = lower + lower.T
    x = model.nodes()
    layers = [x]
    for sums, products in zip(model.sums, model.products, strict=True):
        x = (lower @ x + x) @ sums.weight.T + sums.bias + (lower @ x * x) @ products.weight.T
        x = torch.where(x > 0, x, 0.2 * x)
        layers.append(x / x.norm(dim=1, keepdim=True))
    torch.testing.assert_close(torch.cat(model.propagated()), torch.cat(layers, 1))


def giffcf(**options: Any) -> GiffCF:
    small = {"dim": 4, "time_dim": 4, "dropout": 0.5, **options}
    return GiffCF(PAIRS, USERS, ITEMS, options=GiffCFOptions(**small))


def network(model: GiffCF, z: Tensor, c: Tensor, t: Tensor) -> Tensor:
    """The denoiser written out with dense matrices."""
    time = F.silu(model.time(time_encoding(t, 4)))
    scale = 1 / c.sum(1, keepdim=True).clamp(min=1).sqrt()
    h = model.output(F.silu(model.hidden(torch.cat([scale * z @ model.items, scale * c @ model.items, time], 1))))
    k = model.mixing(time)
    return k[:, :1] * (h @ model.items.T) + k[:, 1:2] * c + k[:, 2:] * (c @ normal().T @ normal())


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_giffcf_objective_term_by_term(noise: float) -> None:
    model = giffcf(noise_scale=noise)
    found = model.loss(batch(), seeded())["recon"]
    generator, x = seeded(), dense(PAIRS, USERS, ITEMS).float()[PAIRS[0].unique()]
    t = torch.randint(1, 4, (len(x),), generator=generator)
    c = x * (torch.rand(x.shape, generator=generator) >= 0.5)
    a = normal().T @ normal()
    z = x + (1.5 / 3 * t)[:, None] * (x @ a - x)
    if noise:
        z = z + noise * torch.randn(x.shape, generator=generator)
    torch.testing.assert_close(found, (x - network(model, z, c, t)).square().sum(1).mean())


def test_giffcf_sharpens_along_the_filters() -> None:
    model = giffcf(steps=2)
    x, a = dense(PAIRS, USERS, ITEMS).float(), normal().T @ normal()

    def smooth(y: Tensor, t: int) -> Tensor:
        return y + 1.5 * t / 2 * (y @ a - y)

    z = smooth(x, 2)
    found = network(model, z, x, torch.full((USERS,), 2))
    z = smooth(found, 1) + z - smooth(found, 2)
    expected = network(model, z, x, torch.full((USERS,), 1))
    torch.testing.assert_close(model.predict(torch.arange(USERS)), expected.detach(), atol=1e-5, rtol=1e-4)


def test_symmetric_infonce_by_hand() -> None:
    anchors, candidates = torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
    options = SGCLOptions(symmetry=0.5, negative_share=0.1, negatives=4)
    found = symmetric_infonce(anchors, torch.tensor([[1.0, 1.0]]), candidates, torch.tensor([0]), 0.5, options)
    own, others = math.exp(2**-0.5 / 0.5), (math.exp(0) + math.exp(-1 / 0.5)) / 2
    expected = math.exp(-0.5 / 0.5) / 0.5 * (-(own**0.5) + 0.1**0.5 * (own + 4 * others) ** 0.5)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_simplex_users_are_partly_their_items() -> None:
    model = SimpleX(GRAPH, USERS, ITEMS, dim=3, own_share=0.25)
    x = dense(PAIRS, USERS, ITEMS).float()
    mean = x / x.sum(1, keepdim=True).clamp(min=1) @ model.item_embedding.weight
    expected = 0.25 * model.user_embedding.weight + 0.75 * mean @ model.history.weight.T
    torch.testing.assert_close(model.nodes()[:USERS], expected)
    users, items = model.embeddings()
    torch.testing.assert_close(users, F.normalize(expected).detach())
    torch.testing.assert_close(items, F.normalize(model.item_embedding.weight).detach())
    assert set(model.loss(batch(), seeded())) == {"ccl", "reg"}


def test_cross_correlation_by_hand() -> None:
    # Columns that are alike but for sign: correlations 1 and -1, off the diagonal 0.
    users = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    items = users * torch.tensor([2.0, -1.0])
    assert cross_correlation_loss(users, items, 0.5).item() == pytest.approx((0 + 4) / 2, rel=1e-4)
    turned = users.flip(1)
    assert cross_correlation_loss(users, turned, 0.5).item() == pytest.approx((1 + 1 + 0.5 * 2) / 2, rel=1e-4)


def test_dimension_uniformity_by_hand() -> None:
    x = torch.tensor([[3.0, 1.0], [0.0, 1.0]])  # columns of cosine 1 / sqrt 2
    assert dimension_uniformity(x, 1.0).item() == pytest.approx(4 * math.log(2**-0.5 + 1), rel=1e-5)


def test_the_past_moves_towards_the_present() -> None:
    model = RecDCL(GRAPH, USERS, ITEMS, dim=2, momentum=0.25)
    rows = torch.tensor([1])
    model._past(model.past_users, rows, torch.tensor([[4.0, 0.0]]))
    assert model.past_users[1].tolist() == [4.0, 0.0]
    found = model._past(model.past_users, rows, torch.tensor([[0.0, 8.0]]))
    assert found.tolist() == model.past_users[1:2].tolist() == [[1.0, 6.0]]
    assert model.past_users[0].tolist() == [0.0, 0.0]


def test_residual_codes_by_hand() -> None:
    x = torch.tensor([[10.0, 1.0], [10.0, -1.0], [-10.0, 1.0], [-10.0, -1.0]])
    codes, books = residual_codes(x, 2, 2, 10, seeded())
    rebuilt = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    once = (x - books[0][codes[:, 0]]).square().sum()
    assert (x - rebuilt).square().sum() <= once
    rest = x - books[0][codes[:, 0]]
    assert codes[:, 1].tolist() == torch.cdist(rest, books[1]).argmin(1).tolist()


def test_partners_share_all_codes_but_the_last() -> None:
    codes = torch.tensor([[0, 1, 5], [0, 1, 6], [2, 2, 2], [0, 1, 7], [0, 2, 5]])
    seen: dict[int, set[int]] = {node: set() for node in range(5)}
    generator = seeded()
    for _ in range(40):
        for node, other in enumerate(partner(codes, generator).tolist()):
            seen[node].add(other)
    assert seen == {0: {1, 3}, 1: {0, 3}, 2: {2}, 3: {0, 1}, 4: {4}}


def test_cogcl_views_against_a_dense_graph() -> None:
    model = CoGCL(GRAPH, USERS, ITEMS, dim=2, num_layers=1, levels=1, codes=2)
    model.codes = (torch.arange(USERS)[:, None] % 2, torch.arange(ITEMS)[:, None] % 2)
    model.books = (torch.randn(1, 2, 2), torch.randn(1, 2, 2))
    x = dense(PAIRS, USERS, ITEMS).float()
    for keep in (False, True):
        users, items = model._view(1.0, seeded(), keep=keep)
        whole = torch.zeros(USERS + 2, ITEMS + 2)
        for u, i in PAIRS.T.tolist():
            whole[u, ITEMS + i % 2] = whole[USERS + u % 2, i] = 1
            whole[u, i] = float(keep)
        scaled = whole / (whole.sum(1, keepdim=True).clamp(min=1) * whole.sum(0).clamp(min=1)).sqrt()
        left = torch.cat([model.user_embedding.weight, model.books[0][0]])
        right = torch.cat([model.item_embedding.weight, model.books[1][0]])
        torch.testing.assert_close(users, ((left + scaled @ right) / 2)[:USERS])
        torch.testing.assert_close(items, ((right + scaled.T @ left) / 2)[:ITEMS])
    plain = CoGCL(GRAPH, USERS, ITEMS, dim=2, levels=1, codes=2)
    plain.codes, plain.books = model.codes, model.books
    users, _ = plain._view(0.0, seeded(), keep=False)  # no edge drawn: the graph itself, where codes have no part
    torch.testing.assert_close(users, plain.propagated()[0])
    assert x.sum() == PAIRS.size(1)


def test_cogcl_training_goes_on_where_it_was() -> None:
    model = CoGCL(GRAPH, USERS, ITEMS, dim=2, warm_up=0, levels=2, codes=3)
    assert set(model.loss(batch(), seeded())) == {"bpr", "reg", "nce", "similar"}
    other = CoGCL(GRAPH, USERS, ITEMS, dim=2, warm_up=0, levels=2, codes=3)
    other.load_state_dict(model.state_dict())
    other.load_training_state(model.training_state())
    for a, b in zip(model.loss(batch(), seeded()).values(), other.loss(batch(), seeded()).values(), strict=True):
        assert a == b


def test_ddrm_ranks_by_the_mean_of_the_history_before_it_has_learned() -> None:
    model = DDRM(GRAPH, USERS, ITEMS, dim=3, noise_scale=1e-6)
    users, items = model.embeddings()
    x = dense(PAIRS, USERS, ITEMS).float()
    torch.testing.assert_close(users, x / x.sum(1, keepdim=True).clamp(min=1) @ items, atol=1e-4, rtol=1e-3)


def test_ddrm_objective_term_by_term() -> None:
    model = DDRM(GRAPH, USERS, ITEMS, dim=3, noise_scale=0.5, reconstruction=0.3)
    for network_ in (model.of_users, model.of_items):
        torch.nn.init.normal_(network_.output.weight)
    terms = model.loss(batch(), seeded())
    users, items = model.propagated()
    u, i, j = users[PAIRS[0]], items[PAIRS[1]], items[PAIRS[1].roll(1)]
    generator = seeded()
    t = torch.randint(1, 3, (len(u),), generator=generator)
    level = 1 - torch.tensor([0.05, 0.5])[t - 1][:, None]

    def denoise(net: torch.nn.Module, x: Tensor, guide: Tensor) -> Tensor:
        z = level.sqrt() * x + (1 - level).sqrt() * torch.randn(x.shape, generator=generator)
        return z + net(z, t, guide)

    found_u, found_i = denoise(model.of_users, u, i), denoise(model.of_items, i, u)
    bpr = -F.logsigmoid((found_u * (found_i - j)).sum(1)).mean()
    recon = (found_u - u).square().sum(1).mean() + (found_i - i).square().sum(1).mean()
    torch.testing.assert_close(terms["bpr"], 0.7 * bpr)
    torch.testing.assert_close(terms["recon"], 0.3 * recon)


def test_cfdiff_attends_to_rows_without_the_own_items() -> None:
    model = CFDiff(PAIRS, USERS, ITEMS, options=CFDiffOptions(hidden=4, heads=1, hops=2))
    x, a = dense(PAIRS, USERS, ITEMS).float(), normal().T @ normal()
    hops = [F.normalize((1 - x) * (x @ a)), F.normalize((1 - x) * (x @ a @ a))]
    for found, expected in zip(model.hop_rows(x), hops, strict=True):
        torch.testing.assert_close(found, expected)
    t = torch.full((USERS,), 3)
    time = model.time(time_encoding(t, model.options.time_dim))
    h = torch.tanh(model.encoder(torch.cat([x, time], 1)))
    g = torch.stack([torch.tanh(model.hop(row)) for row in hops], 1)
    weight = ((model.query(h)[:, None] * model.key(g)).sum(2) / 4**0.5).softmax(1)
    expected = model.decoder(h + (weight[:, :, None] * model.value(g)).sum(1))
    torch.testing.assert_close(model.denoised(x, t, x), expected)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("ngcf", {"lr": 0.01}),
        ("giffcf", {"dim": 16, "lr": 0.01}),
        ("giffcf", {"dim": 16, "lr": 0.01, "noise_scale": 0.1}),
        ("sgcl", {"lr": 0.02}),
        ("recdcl", {"lr": 0.02}),
        ("cogcl", {"lr": 0.02, "codes": 4, "levels": 2, "warm_up": 1}),
        ("ddrm", {"dim": 8}),
        ("cfdiff", {"hidden": 16, "lr": 0.01}),
        ("simplex", {"lr": 0.02}),
        ("enmf", {"lr": 0.02}),
        ("sccf", {"lr": 0.02}),
        ("directau", {"lr": 0.02}),
    ],
)
def test_they_find_the_tastes(model: str, options: dict[str, Any]) -> None:
    data = blocks()
    small = {"dim": 8} if "dim" in configure(model).recipe.option_names else {}
    found = run(
        data, configure(model, **{**small, "epochs": 15, "batch_size": 128, **options}), ks=(5, 20), progress=False
    )
    assert found.test["ndcg@5"] > 1.3 * run(data, configure("popularity"), ks=(5,)).test["ndcg@5"]


@pytest.mark.parametrize(
    ("model", "bad", "message"),
    [
        ("ngcf", {"message_dropout": 1.0}, "message_dropout"),
        ("giffcf", {"dropout": 1.0}, "dropout"),
        ("giffcf", {"steps": 0}, "steps"),
        ("sgcl", {"symmetry": 0.0}, "symmetry must be positive"),
        ("recdcl", {"momentum": 2.0}, "momentum"),
        ("cogcl", {"codes": 0}, "codes"),
        ("ddrm", {"noise_scale": 3.0}, "scale times low"),
        ("cfdiff", {"heads": 3}, "heads must divide hidden"),
        ("simplex", {"own_share": 1.5}, "own_share"),
    ],
)
def test_bad_options(model: str, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure(model, **bad)
    if model not in ("ddrm",):
        with pytest.raises(OptionError):
            configure(model, **bad)
