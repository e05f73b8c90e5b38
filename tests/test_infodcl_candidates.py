"""InfoDCL's InfoNCE on a sample of the items: an unbiased partition function, exact where all items are covered."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.kernels import infonce
from infodcl_geo.models.base import Batch
from infodcl_geo.models.infodcl import InfoDCL, InfoDCLOptions
from infodcl_geo.nn.candidates import sample_candidates

USERS, ITEMS, DIM = 3, 40, 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(candidates: int, channels: int = 1) -> InfoDCL:
    torch.manual_seed(0)
    graph = normalized_adjacency(torch.tensor([[0, 1, 2], [0, 5, 39]]), USERS, ITEMS)
    metadata = {f"c{k}": torch.randn(ITEMS, DIM, generator=seeded(k)) for k in range(channels)}
    options = InfoDCLOptions(contrast=1.0, candidates=candidates)
    return InfoDCL(graph, USERS, ITEMS, metadata, options=options)


def batch(anchors: list[int]) -> Batch:
    one = torch.tensor([0])
    return Batch(one, one, one + 1, torch.tensor(anchors), 1.0)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), num_items=st.integers(2, 60))
def test_draws_are_other_items_and_the_weights_add_up_to_all_items(data: st.DataObject, num_items: int) -> None:
    anchors = data.draw(st.lists(st.integers(0, num_items - 1), min_size=1, max_size=num_items - 1))
    count = data.draw(st.integers(1, 2 * num_items))
    items = torch.tensor(anchors)
    rows, log_q = sample_candidates(items, num_items, count, seeded(data.draw(st.integers(0, 99))))
    assert rows.shape == log_q.shape == (len(anchors) + count,)
    assert torch.equal(rows[: len(anchors)], items)
    drawn = rows[len(anchors) :].tolist()
    assert not set(drawn) & set(anchors)
    assert all(0 <= row < num_items for row in drawn)
    assert drawn == sorted(drawn)
    if count <= num_items - len(set(anchors)):
        assert max(drawn.count(row) for row in drawn) <= 2
    weight = torch.zeros(num_items).index_add(0, rows, (-log_q).exp())
    torch.testing.assert_close(weight[items], torch.ones(len(anchors)))  # each positive counts once
    assert weight.sum().item() == pytest.approx(num_items, rel=1e-5)


@pytest.mark.parametrize("anchors", [[7], [39, 0, 12, 11], [3, 3, 3, 20, 20, 39]])
@pytest.mark.parametrize("count", [1, 6, 25])
def test_partition_function_is_unbiased(anchors: list[int], count: int) -> None:
    """The mean of 4000 draws lies within 4.5 standard errors of the sum over all items, and items vary in weight."""
    similarity = torch.randn(ITEMS, dtype=torch.float64, generator=seeded(5))
    generator, estimates = seeded(6), []
    for _ in range(4000):
        rows, log_q = sample_candidates(torch.tensor(anchors), ITEMS, count, generator)
        estimates.append((similarity[rows] - log_q.double()).exp().sum())
    estimate = torch.stack(estimates)
    error = (estimate.mean() - similarity.exp().sum()).abs()
    assert estimate.std() > 0.05
    assert error < 4.5 * estimate.std() / math.sqrt(len(estimates))


def test_no_more_variance_than_independent_draws() -> None:
    similarity = torch.randn(500, dtype=torch.float64, generator=seeded(5))
    similarity = similarity.sort().values  # items in an order that means something
    generator = seeded(6)
    sums = []
    for _ in range(500):
        rows, log_q = sample_candidates(torch.tensor([3]), 500, 50, generator)
        sums.append((similarity[rows] - log_q.double()).exp().sum())
    independent = 499 * similarity.exp().std() / math.sqrt(50)
    assert torch.stack(sums).std() < 0.5 * independent


@pytest.mark.parametrize("anchors", [[7, 30, 2], [7, 30, 7, 7]])
def test_covering_all_items_is_the_full_loss(anchors: list[int]) -> None:
    full = model(0).loss(batch(anchors), seeded())
    for candidates in (ITEMS, ITEMS - len(anchors), 10**9):
        for name, value in model(candidates).loss(batch(anchors), seeded()).items():
            assert torch.equal(value, full[name]), name
    assert model(ITEMS - len(anchors) - 1).loss(batch(anchors), seeded())["nce"] != full["nce"]


@pytest.mark.parametrize("anchors", [[7, 30, 2], [7, 30, 7, 7]])
def test_sampled_loss_is_the_formula(anchors: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """-s_p + log of the estimated partition function, in float64 from the vectors that the model generated."""
    built = model(10)
    seen: list[Tensor] = []

    def spy(generated: Tensor, *args: object, **kwargs: object) -> Tensor:
        seen.append(generated.detach().double())
        return infonce(generated, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("infodcl_geo.nn.ranks.infonce", spy)
    drawn: list[tuple[Tensor, Tensor]] = []

    def sample(*args: object) -> tuple[Tensor, Tensor]:
        drawn.append(sample_candidates(*args))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr("infodcl_geo.nn.candidates.sample_candidates", sample)
    loss = built.loss(batch(anchors), seeded())["nce"]
    rows, log_q = drawn[0]
    items = torch.tensor(anchors)
    logits = F.normalize(seen[0]) @ F.normalize(built.item_embedding.weight.detach().double()).T / 0.2
    partition = (logits[:, rows] - log_q.double()).logsumexp(1)
    expected = (partition - logits.gather(1, items[:, None])[:, 0]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradients_are_finite_and_reach_only_candidates() -> None:
    built = model(6, channels=2)
    built.loss(batch([7, 30, 2]), seeded())["nce"].backward()
    gradient = built.item_embedding.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    touched = gradient.abs().sum(1) > 0
    assert 4 <= touched.sum() <= 3 + 6  # one sample, shared by the channels
    assert touched[[7, 30, 2]].all()


def test_a_seeded_generator_repeats_the_step_and_another_does_not() -> None:
    first, second, other = (model(6).loss(batch([7, 30, 2]), seeded(seed))["nce"] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert first != other


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="candidates"):
        InfoDCLOptions(candidates=-1)
