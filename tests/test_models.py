"""Models: objectives against their formulas, ablations, and what each must learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import normalized_adjacency, propagate
from infodcl_geo.models.base import Batch, EmbeddingModel
from infodcl_geo.models.infodcl import InfoDCL, InfoDCLOptions
from infodcl_geo.models.lightgcn import LightGCN
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.models.popularity import popularity_embeddings
from infodcl_geo.nn.losses import balance_loss

USERS, ITEMS, DIM = 4, 5, 8
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([3, 4]), torch.tensor([4, 0, 2]), 1.5)


def graph():  # type: ignore[no-untyped-def]
    return normalized_adjacency(PAIRS, USERS, ITEMS)


def metadata(seed: int) -> Tensor:
    return torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(seed))


def infodcl(channels: int = 1, rows: dict[str, Tensor] | None = None, **options: object) -> InfoDCL:
    torch.manual_seed(0)
    chosen, known = {f"c{k}": metadata(k) for k in range(channels)}, InfoDCLOptions(**options)  # type: ignore[arg-type]
    return InfoDCL(graph(), USERS, ITEMS, chosen, row_weights=rows, num_layers=2, init_std=0.1, l2=0.1, options=known)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def bpr_terms(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return -F.logsigmoid((user * positive).sum(1) - (user * negative).sum(1)).mean()


def test_matrix_factorisation_objective() -> None:
    torch.manual_seed(0)
    model = MatrixFactorization(graph(), USERS, ITEMS, dim=DIM, l2=0.1)
    model.bpr_weight = 0.7
    user, item = model.user_embedding.weight, model.item_embedding.weight
    u, i, j = user[BATCH.users], item[BATCH.positives], item[BATCH.negatives]
    terms = model.loss(BATCH)
    torch.testing.assert_close(terms["bpr"], 0.7 * bpr_terms(u, i, j))
    torch.testing.assert_close(terms["reg"], 0.1 * (u.pow(2).sum() + i.pow(2).sum() + j.pow(2).sum()) / 2)


def test_lightgcn_objective_is_on_propagated_embeddings() -> None:
    torch.manual_seed(0)
    model = LightGCN(graph(), USERS, ITEMS, dim=DIM, num_layers=3, l2=0.1)
    nodes = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    deep = propagate(graph(), nodes, 3)
    u, i, j = deep[BATCH.users], deep[USERS + BATCH.positives], deep[USERS + BATCH.negatives]
    terms = model.loss(BATCH)
    torch.testing.assert_close(terms["bpr"], bpr_terms(u, i, j))
    flat = [nodes[BATCH.users], nodes[USERS + BATCH.positives], nodes[USERS + BATCH.negatives]]
    torch.testing.assert_close(terms["reg"], 0.1 * sum(x.pow(2).sum() for x in flat) / 2)
    torch.testing.assert_close(torch.cat(model.embeddings()), deep)


def channel_terms(model: InfoDCL, k: int, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction, InfoNCE and balance of channel k for ``BATCH`` as ``seeded`` draws them, weighed by ``rows``."""
    item, generator = model.item_embedding.weight, seeded()
    t = model.diffusion.sample_steps(3, generator)
    noise = torch.randn(3, DIM, generator=generator)
    e = item[BATCH.anchors]
    channel = model.channels[f"c{k}"]
    m = model.options.metadata_scale * metadata(k) / metadata(k).square().mean().sqrt()
    informative = channel.psnet(noise, m[BATCH.anchors])
    level = model.diffusion.alpha_bar[t - 1][:, None]
    z = level.sqrt() * e + (1 - level).sqrt() * informative
    generated = channel.denoiser(z, t)
    logits = F.normalize(generated) @ F.normalize(item).T / model.options.temperature
    w = torch.ones(3) if rows is None else rows[BATCH.anchors]
    recon = (w * (e - generated).pow(2).sum(1)).mean()
    nce = (w * F.cross_entropy(logits, BATCH.anchors, reduction="none")).mean()
    return recon, nce, w.mean() * balance_loss(generated, model.options.balance_kind)


@pytest.mark.parametrize("channels", [1, 2])
def test_infodcl_objective_term_by_term(channels: int) -> None:
    model = infodcl(channels, reconstruction=0.4, contrast=0.2, balance=0.3, balance_kind="norm", temperature=0.5)
    with torch.no_grad():
        for parameter in model.channels.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    terms = model.loss(BATCH, seeded())

    item = model.item_embedding.weight
    recon, nce, balance = (
        sum(parts) for parts in zip(*(channel_terms(model, k) for k in range(channels)), strict=True)
    )
    # Three anchors stand for 1.5 times as many steps; BPR weighs what the reconstruction leaves.
    torch.testing.assert_close(terms["recon"], 1.5 * 0.4 * recon)
    torch.testing.assert_close(terms["nce"], 1.5 * 0.2 * nce, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["balance"], 1.5 * 0.3 * balance)
    user = model.user_embedding.weight
    expected = 0.6 * bpr_terms(user[BATCH.users], item[BATCH.positives], item[BATCH.negatives])
    torch.testing.assert_close(terms["bpr"], expected)
    assert set(terms) == {"bpr", "reg", "recon", "nce", "balance"}


def test_row_weights_scale_the_terms_of_their_items() -> None:
    rows = torch.linspace(0, 1, ITEMS)
    model = infodcl(2, {"c1": rows}, reconstruction=0.4, contrast=0.2, balance=0.3)
    terms = model.loss(BATCH, seeded())
    plain, weighed = channel_terms(model, 0), channel_terms(model, 1, rows)
    for name, weight, a, b in zip(("recon", "nce", "balance"), (0.4, 0.2, 0.3), plain, weighed, strict=True):
        torch.testing.assert_close(terms[name], 1.5 * weight * (a + b), rtol=1e-4, atol=1e-5)
    assert {name: note["mean_row_weight"] for name, note in model.notes().items()} == {
        "c0": 1.0,
        "c1": pytest.approx(0.5),
    }


def test_learned_weights_follow_each_channels_contrast() -> None:
    model = infodcl(2, channel_weights="learned", channel_temperature=0.3, contrast=0.2, reconstruction=0.4)
    with torch.no_grad():
        for parameter in model.channels.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    # Nothing is known yet: the weights are equal, and the first step is remembered as it is.
    torch.testing.assert_close(model.channel_weights(), torch.ones(2))
    (one, first, _), (other, second, _) = (channel_terms(model, k) for k in range(2))
    terms = model.loss(BATCH, seeded())
    torch.testing.assert_close(terms["recon"], 1.5 * 0.4 * (one + other))
    torch.testing.assert_close(model.learned_weights.loss, torch.stack([first, second]).detach(), rtol=1e-4, atol=1e-5)

    a, b = torch.exp(-first / 0.3).item(), torch.exp(-second / 0.3).item()
    weights = [2 * a / (a + b), 2 * b / (a + b)]
    torch.testing.assert_close(model.channel_weights(), torch.tensor(weights), rtol=1e-4, atol=1e-5)
    terms = model.loss(BATCH, seeded())
    torch.testing.assert_close(
        terms["recon"], 1.5 * 0.4 * (weights[0] * one + weights[1] * other), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        terms["nce"], 1.5 * 0.2 * (weights[0] * first + weights[1] * second), rtol=1e-4, atol=1e-5
    )

    with torch.no_grad():
        model.item_embedding.weight.mul_(torch.linspace(-1, 1, ITEMS)[:, None])
    moved = channel_terms(model, 0)[1]
    model.loss(BATCH, seeded())
    torch.testing.assert_close(model.learned_weights.loss[0], 0.9 * first + 0.1 * moved, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    model = infodcl(2)
    with torch.no_grad():
        for channel in model.channels.values():
            channel.psnet.alpha.fill_(0.5)
            channel.psnet.eta0.fill_(0.5)
    sum(model.loss(BATCH, seeded()).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_ablations_change_the_noise_as_their_names_say() -> None:
    assert infodcl(psnet=False).channels["c0"].psnet is None
    model = infodcl(psnet=False)
    generator = seeded()
    t = model.diffusion.sample_steps(3, generator)
    noise = torch.randn(3, DIM, generator=generator)
    e = model.item_embedding(BATCH.anchors)
    generated = model.channels["c0"].denoiser(model.diffusion(e, noise, t), t)
    terms = model.loss(BATCH, seeded())
    expected = 1.5 * model.options.reconstruction * (e - generated).pow(2).sum(1).mean()
    torch.testing.assert_close(terms["recon"], expected)

    assert "balance" not in infodcl(balance=0.0).loss(BATCH, seeded())
    assert not infodcl(spectral=False).channels["c0"].psnet.spectral
    assert not infodcl(contextual=False).channels["c0"].psnet.contextual
    losses = [infodcl(**{name: False}).loss(BATCH, seeded())["recon"].item() for name in ("spectral", "psnet")]
    assert losses[0] != losses[1]


def test_a_step_without_anchors_is_matrix_factorisation() -> None:
    terms = infodcl().loss(BATCH._replace(anchors=torch.empty(0, dtype=torch.int64)), seeded())
    assert set(terms) == {"bpr", "reg"}


def test_inference_has_no_diffusion() -> None:
    model = infodcl()
    nodes = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    torch.testing.assert_close(torch.cat(model.embeddings()), propagate(graph(), nodes, 2))


def test_metadata_scale_is_the_root_mean_square() -> None:
    scaled = infodcl(metadata_scale=3.0).channels["c0"].metadata
    assert scaled.square().mean().sqrt().item() == pytest.approx(3.0)


@pytest.mark.parametrize("basis", ["population", "batch", "item"])
def test_all_bases_train(basis: str) -> None:
    model = infodcl(basis=basis, reconstruction=0.9)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = seeded()
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        terms = model.loss(BATCH, generator)
        sum(terms.values()).backward()
        optimizer.step()
        history.append(float(terms["recon"]))
    assert sum(history[-10:]) < 0.5 * sum(history[:10])


def test_popularity() -> None:
    users, items = popularity_embeddings(PAIRS, USERS, ITEMS)
    assert (users @ items.T)[2].tolist() == [1, 2, 1, 1, 0]


def test_errors() -> None:
    with pytest.raises(ValueError, match="needs channels of one shape, got none"):
        InfoDCL(graph(), USERS, ITEMS, {})
    with pytest.raises(ValueError, match="channels of one shape"):
        InfoDCL(graph(), USERS, ITEMS, {"a": torch.ones(ITEMS, 4), "b": torch.ones(ITEMS, 5)})
    with pytest.raises(ValueError, match="channels have 3 rows for 5 items"):
        InfoDCL(graph(), USERS, ITEMS, {"a": torch.ones(3, 4)})
    with pytest.raises(ValueError, match="need a graph of their sum"):
        EmbeddingModel(graph(), USERS, ITEMS + 1)
    for bad in ({"reconstruction": 1.5}, {"contrast": -1.0}, {"temperature": 0.0}, {"metadata_scale": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            InfoDCLOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="equal, learned, not 'none'"):
        InfoDCLOptions(channel_weights="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contrast must be positive"):
        InfoDCLOptions(channel_weights="learned", contrast=0.0)


def test_embeddings_start_from_vectors_of_the_wanted_size() -> None:
    torch.manual_seed(0)
    model = EmbeddingModel(graph(), USERS, ITEMS, dim=2, init_std=0.5)
    random = model.item_embedding.weight.clone()
    items = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0], [-3.0, 0.0], [4.0, 0.0]])
    model.start_from(torch.zeros(USERS, 2), items)
    # The known entries are 3, 4, -3, 4: a root mean square of sqrt(12.5).
    scaled = items * (0.5 / 12.5**0.5)
    started = model.item_embedding.weight
    torch.testing.assert_close(started[[0, 1, 3, 4], 0], scaled[[0, 1, 3, 4], 0])
    assert torch.equal(started[:, 1], random[:, 1])
    assert torch.equal(started[2], random[2])
    with pytest.raises(ValueError, match="cannot start a table"):
        model.start_from(torch.zeros(USERS, 2), torch.zeros(ITEMS, 3))
