"""DiffRec: noise, weights and objective term by term, the reverse process, and what it must learn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from test_ease import blocks, dense, random_pairs
from torch import Tensor

from infodcl_geo.configuration import configure
from infodcl_geo.experiment import run
from infodcl_geo.models.base import Batch
from infodcl_geo.models.diffrec import DiffRec, DiffRecOptions
from infodcl_geo.nn.diffusion import time_encoding
from infodcl_geo.training.sampling import BatchSampler

USERS, ITEMS = 6, 7
PAIRS = random_pairs(5, USERS, ITEMS)
NONE = torch.empty(0, dtype=torch.int64)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def build(**options: Any) -> DiffRec:
    torch.manual_seed(0)
    return DiffRec(PAIRS, USERS, ITEMS, options=DiffRecOptions(**{"hidden": 5, "noise_scale": 0.5, **options}))


def whole_batch() -> Batch:
    return Batch(*PAIRS, PAIRS[1], NONE, 1.0)


def network(model: DiffRec, x: Tensor, t: Tensor) -> Tensor:
    code = time_encoding(t, model.options.time_dim) @ model.time.weight.T + model.time.bias
    hidden = torch.tanh(torch.cat([x, code], 1) @ model.encoder.weight.T + model.encoder.bias)
    return hidden @ model.decoder.weight.T + model.decoder.bias


def variances(model: DiffRec) -> list[float]:
    o = model.options
    return [o.noise_scale * (o.noise_min + k / (o.steps - 1) * (o.noise_max - o.noise_min)) for k in range(o.steps)]


@pytest.mark.parametrize("reweight", [False, True])
def test_objective_term_by_term(reweight: bool) -> None:
    model = build(steps=4, dropout=0.25, reweight=reweight, importance=False)
    (name, value), *others = model.loss(whole_batch(), seeded()).items()
    assert (name, others) == ("recon", [])

    generator = seeded()
    # The batch holds every pair once, so every user once, in the order of their first pairs.
    users = PAIRS[0].unique()
    x = dense(PAIRS, USERS, ITEMS).float()[users]
    k = torch.multinomial(torch.full((4,), 0.25), len(users), replacement=True, generator=generator)
    level = 1 - torch.tensor(variances(model))[k][:, None]
    noised = level.sqrt() * x + (1 - level).sqrt() * torch.randn(x.shape, generator=generator)
    noised = noised * (torch.rand(x.shape, generator=generator) >= 0.25) / 0.75
    ratio = [(1 - v) / v for v in variances(model)]
    weight = torch.tensor([1.0, *(0.5 * (a - b) for a, b in itertools.pairwise(ratio))])
    weight = weight / weight.mean() if reweight else torch.ones(4)
    expected = (weight[k] * (x - network(model, noised, k + 1)).square().sum(1)).mean()
    torch.testing.assert_close(value, expected)


def test_each_user_is_diffused_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    rows: list[Tensor] = []
    monkeypatch.setattr(model.rows, "dense", lambda users: rows.append(users) or torch.zeros(len(users), ITEMS))
    for batch in BatchSampler(PAIRS, USERS, ITEMS, batch_size=4, generator=seeded()):
        model.loss(batch, seeded())
    assert torch.cat(rows).sort().values.tolist() == PAIRS[0].unique().tolist()


def test_a_batch_without_a_first_item_costs_nothing() -> None:
    model = build()
    later = torch.cat([torch.zeros(1, dtype=torch.bool), PAIRS[0, 1:] == PAIRS[0, :-1]])
    loss = model.loss(Batch(*PAIRS[:, later], PAIRS[1, later], NONE, 1.0), seeded())["recon"]
    assert float(loss.detach()) == 0
    loss.backward()


def test_importance_draws_steps_by_the_root_of_their_squared_loss() -> None:
    model = build(steps=3)
    torch.testing.assert_close(model.step_probability(), torch.full((3,), 1 / 3))
    model._remember(torch.tensor([0, 0, 1]), torch.tensor([1.0, 3.0, 2.0]))
    torch.testing.assert_close(model.squared_loss, torch.tensor([5.0, 4.0, 0.0]))
    torch.testing.assert_close(model.step_probability(), torch.full((3,), 1 / 3))  # step 3 was not seen yet
    model._remember(torch.tensor([2, 1]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(model.squared_loss, torch.tensor([5.0, 4.5, 1.0]))
    roots = torch.tensor([5.0, 4.5, 1.0]).sqrt()
    torch.testing.assert_close(model.step_probability(), 0.999 * roots / roots.sum() + 0.001 / 3)


def test_importance_leaves_the_expected_loss_as_it_is() -> None:
    batch = whole_batch()
    means = []
    for importance in (False, True):
        model = build(steps=3, dropout=0.0, noise_scale=0.01, importance=importance)
        model.squared_loss = torch.tensor([1.0, 4.0, 25.0])
        generator, total = seeded(), 0.0
        with torch.no_grad():
            for _ in range(400):
                model.squared_loss = torch.tensor([1.0, 4.0, 25.0])
                total += float(model.loss(batch, generator)["recon"])
        means.append(total / 400)
    assert means[1] == pytest.approx(means[0], rel=0.05)


def test_inference_follows_the_posterior_means() -> None:
    model = build(steps=3)
    bar = [1.0, *(1 - v for v in variances(model))]
    x = dense(PAIRS, USERS, ITEMS).float()
    for t in (3, 2, 1):
        alpha = bar[t] / bar[t - 1]
        guess = network(model, x, torch.full((USERS,), t))
        x = (bar[t - 1] ** 0.5 * (1 - alpha) * guess + alpha**0.5 * (1 - bar[t - 1]) * x) / (1 - bar[t])
    torch.testing.assert_close(model.predict(torch.arange(USERS)), x.detach(), atol=1e-5, rtol=1e-4)


def test_slices_do_not_repeat_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    calls: list[int] = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda users: calls.append(len(users)) or predict(users))
    scorer = model.scorer()
    users = torch.tensor([4, 1])
    parts = [scorer(users, slice(0, 3)), scorer(users.clone(), slice(3, 7))]
    assert calls == [2]
    torch.testing.assert_close(torch.cat(parts, 1), predict(users))
    parts[0].fill_(-torch.inf)  # as the ranking does with seen items
    assert torch.isfinite(scorer(users, slice(0, 3))).all()
    scorer(torch.tensor([4, 2]), slice(0, 3))
    assert calls == [2, 2]


def test_every_parameter_gets_a_gradient_and_the_generator_decides() -> None:
    model = build(steps=3)
    model.loss(whole_batch(), seeded())["recon"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    a, b = (float(build().loss(whole_batch(), seeded())["recon"].detach()) for _ in range(2))
    assert a == b


def test_it_learns_the_tastes() -> None:
    data = blocks()
    config = configure("diffrec", epochs=30, batch_size=128, lr=0.01)
    found = run(data, config, ks=(5, 20), progress=False)
    assert found.test["ndcg@5"] > 1.3 * run(data, configure("popularity"), ks=(5,)).test["ndcg@5"]
    again = run(data, config, ks=(5, 20), progress=False)
    assert found.test == again.test


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"hidden": 0}, "hidden"),
        ({"steps": 0}, "steps"),
        ({"time_dim": 0}, "time_dim"),
        ({"dropout": 1.0}, "dropout"),
        ({"noise_scale": 0.0}, "scale times low"),
        ({"noise_scale": 3.0}, "scale times low"),
        ({"noise_min": 0.9, "noise_max": 0.1}, "must ascend"),
    ],
)
def test_bad_options(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffRecOptions(**bad)


def test_one_step() -> None:
    model = build(steps=1)
    assert torch.isfinite(model.loss(whole_batch(), seeded())["recon"])
    torch.testing.assert_close(
        model.predict(torch.arange(USERS)),
        network(model, dense(PAIRS, USERS, ITEMS).float(), torch.ones(USERS, dtype=torch.int64)).detach(),
    )
