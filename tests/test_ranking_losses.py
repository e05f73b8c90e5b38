"""Objectives by hand, against naive twins, and as an option of the backbones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_ease import blocks, dense
from torch import Tensor

from infodcl_geo.configuration import configure
from infodcl_geo.data.generated import demo
from infodcl_geo.errors import OptionError
from infodcl_geo.experiment import fit, prepare, run
from infodcl_geo.models import RECIPES, Recipe, find_recipe
from infodcl_geo.models.base import Batch, EmbeddingModel
from infodcl_geo.models.ranked import Rows
from infodcl_geo.nn import ranking_losses as losses
from infodcl_geo.training.loop import set_up
from infodcl_geo.training.sampling import BatchSampler

LOSSES = ("softmax", "slk", "directau", "ccl", "sccf", "enmf")


def random(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.requires_grad_(grad)


def test_softmax_by_hand() -> None:
    users, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    cosines = [1.0, 0.0, -1.0]
    expected = math.log(sum(math.exp((c - 1.0) / 0.5) for c in cosines))
    assert losses.softmax_loss(users, items, torch.tensor([0]), 0.5).item() == pytest.approx(expected, rel=1e-5)
    dots = [2.0, 0.0, -1.0]
    expected = math.log(sum(math.exp((c - 0.0) / 0.5) for c in dots))
    found = losses.softmax_loss(users, items, torch.tensor([1]), 0.5, cosine=False, weights=torch.tensor([3.0]))
    assert found.item() == pytest.approx(3 * expected, rel=1e-5)


def test_a_sample_of_everything_is_the_softmax_over_all_items() -> None:
    users, items, positives = random(4, 3), random(6, 3, seed=1), torch.tensor([5, 0, 2, 2])
    for cosine in (True, False):
        whole = losses.softmax_loss(users, items, positives, 0.3, cosine=cosine)
        ids = torch.randperm(6)
        sampled = losses.sampled_softmax_loss(
            users, items[positives], items[ids], 0.3, positive_ids=positives, candidate_ids=ids, share=1.0,
            cosine=cosine,
        )  # fmt: skip
        torch.testing.assert_close(sampled, whole)


def test_the_correction_gives_the_partition_function_in_expectation() -> None:
    users, items, positives = random(1, 3), random(12, 3, seed=1), torch.tensor([4])
    generator, total = torch.Generator().manual_seed(0), 0.0
    own = float(F.cosine_similarity(users, items[positives]))
    for _ in range(2000):
        ids = torch.randperm(12, generator=generator)[:4]
        loss = losses.sampled_softmax_loss(
            users, items[positives], items[ids], 0.5, positive_ids=positives, candidate_ids=ids, share=4 / 12
        )
        total += math.exp(float(loss) + own / 0.5) / 2000
    expected = float((F.cosine_similarity(users, items) / 0.5).exp().sum())
    assert total == pytest.approx(expected, rel=0.05)


def test_a_sample_of_the_positive_alone_costs_nothing() -> None:
    users = random(1, 3, grad=True)
    one = torch.tensor([0])
    loss = losses.sampled_softmax_loss(
        users, random(1, 3), random(1, 3), 0.5, positive_ids=one, candidate_ids=one, share=0.5
    )
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(users.grad).all()  # type: ignore[arg-type]


def test_thresholds_and_weights_by_hand() -> None:
    users, items = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 5.0]])
    found = losses.top_k_thresholds(users, items, 2, cosine=False)
    assert found.tolist() == [1.0, 2.0]  # scores 3, 1, 0 and 0, 2, 10
    torch.testing.assert_close(losses.top_k_thresholds(users, items, 2), torch.full((2,), 2**-0.5))
    assert losses.top_k_thresholds(users, items, 9, cosine=False).tolist() == [0.0, 0.0]
    weight = losses.top_k_weights(torch.tensor([3.0]), torch.tensor([1.0]), 2.0)
    assert weight.item() == pytest.approx(1 / (1 + math.exp(-1)))


def test_directau_by_hand() -> None:
    users, items = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    # Squared distances of the pairs 0 and 2; of the users 2, of the items 4.
    expected = 1.0 + 0.5 / 2 * (-2 * 2 - 2 * 4)
    assert losses.directau_loss(users, items, 0.5).item() == pytest.approx(expected, rel=1e-5)
    assert losses.directau_loss(users[:1], items[:1], 0.5).item() == 0


def test_uniformity_is_that_over_all_distances() -> None:
    x = F.normalize(random(7, 3))
    expected = torch.pdist(x).square().mul(-2).exp().mean().log()
    torch.testing.assert_close(losses.uniformity(x), expected)


def test_ccl_by_hand() -> None:
    users, positives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    negatives, ids = torch.tensor([[1.0, 0.0], [1.0, 1.0], [5.0, 0.0]]), torch.tensor([4, 5, 6])
    scores = losses.cosines_with_shared(users, negatives, ids, torch.tensor([6]))
    torch.testing.assert_close(scores, torch.tensor([[1.0, 2**-0.5, -1.0]]))  # the last is the pair's own item
    expected = 1.0 + 9 * ((1 - 0.4) + (2**-0.5 - 0.4)) / 3
    assert losses.ccl_loss(users, positives, scores, 0.4, 9.0).item() == pytest.approx(expected, rel=1e-5)


def test_sccf_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    users, items = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])

    def kernel(c: float) -> float:
        return math.exp(c / 0.5) + math.exp(c * c / 0.5)

    expected = -(math.log(kernel(1)) + math.log(kernel(-1))) / 2
    expected += math.log((kernel(1) + kernel(-1) + 2 * kernel(0)) / 4)
    assert losses.sccf_loss(users, items, 0.5).item() == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(losses, "_BLOCK", 2)  # row by row
    found = users.clone().requires_grad_()
    loss = losses.sccf_loss(found, items, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    monkeypatch.undo()
    whole = users.clone().requires_grad_()
    losses.sccf_loss(whole, items, 0.5).backward()
    torch.testing.assert_close(found.grad, whole.grad)


def test_enmf_over_all_pairs_is_the_squared_error_of_every_pair() -> None:
    pairs = torch.tensor([[0, 0, 1, 2], [1, 2, 0, 1]])
    users, items, weight = random(3, 2), random(4, 2, seed=1), 0.3
    degree = torch.bincount(pairs[0], minlength=3)
    found = losses.enmf_loss(users[pairs[0]], items[pairs[1]], degree[pairs[0]], items, weight)
    target = dense(pairs, 3, 4)
    error = torch.where(target > 0, 1.0, weight) * (target - users @ items.T).square()
    torch.testing.assert_close(found, error.sum() / 4 - 1)  # the constant: 1 for each observed pair


def test_gradients() -> None:
    users, items, rows = random(4, 3, grad=True), random(6, 3, seed=1, grad=True), torch.tensor([5, 0, 2, 2])
    weights, degree, ids = random(4, seed=2).square(), torch.tensor([1, 2, 3, 1]), torch.tensor([5, 1, 3])
    for function in (
        lambda u, i: losses.softmax_loss(u, i, rows, 0.5, weights=weights),
        lambda u, i: losses.sampled_softmax_loss(
            u, i[rows], i[ids], 0.5, positive_ids=rows, candidate_ids=ids, share=0.5
        ),
        lambda u, i: losses.directau_loss(u, i[:4], 2.0),
        lambda u, i: losses.ccl_loss(u, i[:4], losses.cosines_with_shared(u, i, torch.arange(6), rows), 0.1, 3.0),
        lambda u, i: losses.sccf_loss(u, i[:4], 0.5),
        lambda u, i: losses.enmf_loss(u, i[:4], degree, i, 0.3),
    ):
        assert torch.autograd.gradcheck(function, (users, items))
    scores = random(4, grad=True)
    assert not losses.top_k_weights(scores, scores.detach(), 1.0).requires_grad


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_objective_finds_the_tastes(backbone: str, loss: str) -> None:
    data = blocks()
    config = configure(backbone, ranking_loss=loss, epochs=25, batch_size=128, lr=0.02, dim=8, init_std=0.1)
    found = run(data, config, ks=(5, 20), progress=False)
    assert found.test["ndcg@5"] > 1.3 * run(data, configure("popularity"), ks=(5,)).test["ndcg@5"]
    assert set(found.result.history[0]) >= {loss, "reg"}


RANKING = [recipe for recipe in RECIPES if "ranking_loss" in recipe.option_names]


def test_models_with_a_ranking_term_take_all_objectives() -> None:
    """All but those whose loss is their own and has no term that could be another's."""
    own = {"bm3", "recdcl", "ddrm"}
    embedding = {r.name for r in RECIPES if "init" in r.option_names and not r.closed_form}
    assert {recipe.name for recipe in RANKING} == embedding - own


@pytest.mark.parametrize("recipe", RANKING, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize(
    "options",
    [
        {"ranking_loss": "softmax"},
        {"ranking_loss": "slk", "ranking_candidates": 9, "ranking_similarity": "dot"},
        {"ranking_loss": "sccf"},
    ],
    ids=lambda options: options["ranking_loss"],
)
def test_every_model_with_a_ranking_term_trains_by_every_objective(recipe: Recipe, options: dict[str, Any]) -> None:
    data, loss = blocks(), options["ranking_loss"]
    small = {"hidden": 8, "codes": 4, "levels": 2, "steps": 3, "init": "normal", "dim": 8}
    chosen = {name: value for name, value in small.items() if name in recipe.option_names}
    config = configure(recipe, **{**chosen, "num_layers": 2}, **options)
    model = prepare(data, config).model
    sampler, _ = set_up(model, data, config.training)
    terms = model.loss(sampler.draw()[0], torch.Generator().manual_seed(0))
    assert loss in terms
    assert "bpr" not in terms
    terms[loss].backward()
    assert isinstance(model, EmbeddingModel)
    for table in (model.user_embedding, model.item_embedding):
        assert table.weight.grad is not None
        assert table.weight.grad.isfinite().all()
        assert table.weight.grad.abs().sum() > 0
    users, items = model.embeddings()
    assert users.isfinite().all()
    assert items.isfinite().all()
    if loss != "slk" and config.recipe.propagates_afterwards is False:
        torch.testing.assert_close(items.norm(dim=1), torch.ones(len(items)))


@pytest.mark.parametrize("name", ["lightgcn", "xsimgcl", "freedom", "mgcn", "ngcf", "lightgcl"])
def test_the_objective_is_of_what_ranks(name: str) -> None:
    """Where training and inference see the same embeddings the term is that of the loss on them."""
    still = {"noise": 0.0, "pruning": 0.0, "message_dropout": 0.0, "dropout": 0.0}
    recipe = find_recipe(name)
    changes: dict[str, Any] = {key: value for key, value in still.items() if key in recipe.option_names}
    data = blocks()
    config = configure(
        name, ranking_loss="softmax", ranking_similarity="dot", ranking_temperature=0.5, dim=4, **changes
    )
    model = prepare(data, config).model
    sampler, _ = set_up(model, data, config.training)
    batch: Batch = sampler.draw()[0]
    assert isinstance(model, EmbeddingModel)
    users, items = model.embeddings()
    expected = F.cross_entropy(users[batch.users] @ items.T / 0.5, batch.positives)
    found = model.loss(batch, torch.Generator().manual_seed(0))["softmax"]
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_weight_of_bpr_is_the_objectives() -> None:
    data = blocks()
    changes = {"contrast": 0.0, "balance": 0.0, "dim": 8, "init": "normal", "num_layers": 1}
    terms = []
    for share in (0.0, 0.75):
        config = configure("infodcl", ranking_loss="sccf", reconstruction=share, **changes)
        model = prepare(data, config).model
        sampler, _ = set_up(model, data, config.training)
        terms.append(model.loss(sampler.draw()[0], torch.Generator().manual_seed(0))["sccf"].detach())
        assert model.bpr_rows() is None
    torch.testing.assert_close(terms[1], terms[0] / 4)


def test_rows_are_made_once() -> None:
    calls: list[Tensor | None] = []
    table = torch.arange(6.0).view(3, 2)

    def look_up(rows: Tensor | None) -> Tensor:
        calls.append(rows)
        return table if rows is None else table[rows]

    rows, same = Rows(look_up), torch.tensor([2, 0])
    assert rows(same) is rows(same)
    assert rows(None) is rows(None)
    assert torch.equal(rows(torch.tensor([2, 0])), table[[2, 0]])
    assert len(calls) == 3


def test_rows_without_a_gradient_are_not_kept() -> None:
    table = torch.arange(6.0).view(3, 2).requires_grad_()
    rows, some = Rows(table), torch.tensor([2, 0])
    with torch.no_grad():
        assert not rows(some).requires_grad
    assert rows(some).requires_grad


@pytest.mark.parametrize("sample", [None, 5])
def test_the_positives_of_slk_have_their_gradient(sample: int | None) -> None:
    """The weights are computed from the same rows without one."""
    data = blocks()
    options = {"ranking_loss": "slk", "ranking_candidates": sample, "dim": 4, "num_layers": 1, "l2": 0.0}
    for name in ("mf", "lightgcn", "simdiff"):
        config = configure(name, **options, threshold_temperature=1e9)  # all weights are 1/2
        model = prepare(data, config).model
        plain = prepare(data, config.changed(ranking_loss="softmax")).model
        plain.load_state_dict(model.state_dict())
        batch: Batch = set_up(model, data, config.training)[0].draw()[0]
        found = []
        for one, loss in ((model, "slk"), (plain, "softmax")):
            assert isinstance(one, EmbeddingModel)
            one.loss(batch, torch.Generator().manual_seed(0))[loss].backward()
            assert one.item_embedding.weight.grad is not None
            found.append(one.item_embedding.weight.grad)
        if name != "simdiff":  # whose thresholds draw noise of their own
            torch.testing.assert_close(2 * found[0], found[1], rtol=1e-3, atol=1e-6)
        assert found[0][batch.positives].abs().sum(1).min() > 0


@pytest.mark.parametrize(
    ("options", "by_rows"),
    [
        ({"ranking_loss": "bpr"}, True),
        ({"ranking_loss": "directau"}, True),
        ({"ranking_loss": "sccf"}, True),
        ({"ranking_loss": "softmax", "ranking_candidates": 10}, True),
        ({"ranking_loss": "ccl", "ranking_candidates": 10}, True),
        ({"ranking_loss": "softmax"}, False),
        ({"ranking_loss": "softmax", "ranking_candidates": 40}, False),
        ({"ranking_loss": "ccl"}, False),
        ({"ranking_loss": "slk", "ranking_candidates": 10}, False),
        ({"ranking_loss": "enmf"}, False),
    ],
)
def test_lazy_rows_are_those_that_a_step_reads(options: dict[str, Any], by_rows: bool) -> None:
    data = blocks()
    small = {"dim": 4, "epochs": 2, "batch_size": 64, **options}
    model = prepare(data, configure("mf", **small)).model
    assert bool(model.row_tables(0)) == by_rows
    if not by_rows:
        with pytest.raises(OptionError, match="reads whole tables"):
            fit(data, configure("mf", **small, adam="lazy"), progress=False)
        return
    lazy, eager = (fit(data, configure("mf", **small, adam=adam), progress=False).model for adam in ("lazy", "dense"))
    assert isinstance(lazy, EmbeddingModel)
    torch.testing.assert_close(lazy.item_embedding.weight, eager.item_embedding.weight, atol=1e-4, rtol=1e-3)


def test_thresholds_are_computed_again_after_some_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    known = losses.top_k_thresholds
    monkeypatch.setattr(
        "infodcl_geo.models.objective.top_k_thresholds", lambda *a, **k: calls.append(1) or known(*a, **k)
    )
    data = blocks()
    fit(data, configure("mf", ranking_loss="slk", threshold_every=2, epochs=5, batch_size=100), progress=False)
    assert len(calls) == 3  # before epochs 1, 3 and 5


def test_cosines_rank_by_cosines() -> None:
    data = demo(num_users=60, num_items=50).interactions
    for backbone in ("mf", "lightgcn"):
        config = configure(backbone, ranking_loss="softmax", num_layers=0, dim=4)
        users, items = prepare(data, config).model.embeddings()  # type: ignore[operator]
        for x in (users, items):
            torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)))
        dot = prepare(data, config.changed(ranking_similarity="dot")).model
        torch.testing.assert_close(dot.embeddings()[1], dot.item_embedding.weight.detach())  # type: ignore[operator,union-attr]


def test_bpr_is_what_it_was() -> None:
    data = blocks()
    model = prepare(data, configure("mf", dim=4)).model
    sampler, _ = set_up(model, data, configure("mf").training)
    assert isinstance(sampler, BatchSampler)
    batch: Batch = sampler.draw()[0]
    assert isinstance(model, EmbeddingModel)
    for found, known in zip(model.loss(batch).values(), model.row_terms(batch).values(), strict=True):
        assert found == known
    assert set(model.state_dict()) == {"user_embedding.weight", "item_embedding.weight"}


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="ranking_loss must be one of bpr, softmax"):
        configure("mf", ranking_loss="hinge")
    with pytest.raises(OptionError, match="ranking_temperature must be positive"):
        configure("lightgcn", ranking_temperature=0.0)
    with pytest.raises(OptionError, match="ranking_candidates must be at least 1"):
        configure("mf", ranking_candidates=0)
    with pytest.raises(OptionError, match="margin"):
        configure("mf", margin=1.5)
