"""VBPR: its score and its objective, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.vbpr import VBPR, VBPROptions
from infodcl_geo.nn.modal import ModalProjection

PAIRS = torch.tensor([[0, 1, 1], [0, 1, 2]])
BATCH = Batch(torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([1, 0]), torch.empty(0, dtype=torch.int64), 1.0)


def hand_made() -> VBPR:
    graph = normalized_adjacency(PAIRS, 2, 3)
    # Centred and of root mean square 1 already.
    features = {"one": torch.tensor([[1.0], [-1.0], [0.0]]) * 1.5**0.5}
    model = VBPR(graph, 2, 3, features, dim=1, modal_dim=1, l2=0.1, modal_l2=0.01)
    values = (
        (model.user_embedding, [[1.0], [2.0]]), (model.item_embedding, [[1.0], [0.5], [-1.0]]),
        (model.taste, [[2.0], [-1.0]]), (model.item_bias, [[0.1], [0.2], [0.3]]),
        (model.projection.linear, [[0.5 / 1.5**0.5]]), (model.modal_bias, [[0.2 / 1.5**0.5]]),
    )  # fmt: skip
    with torch.no_grad():
        for part, value in values:
            part.weight.copy_(torch.tensor(value))
    return model


def test_score_and_objective_by_hand() -> None:
    model = hand_made()
    # beta_i + gamma_u gamma_i + theta_u E f_i + beta' f_i, with E f = (.5, -.5, 0) and beta' f = (.2, -.2, 0)
    expected = torch.tensor([
        [0.1 + 1 + 1 + 0.2, 0.2 + 0.5 - 1 - 0.2, 0.3 - 1],
        [0.1 + 2 - 0.5 + 0.2, 0.2 + 1 + 0.5 - 0.2, 0.3 - 2],
    ])  # fmt: skip
    users, items = model.embeddings()
    torch.testing.assert_close(users @ items.T, expected)
    terms = model.loss(BATCH)
    margins = torch.stack([expected[0, 0] - expected[0, 1], expected[1, 2] - expected[1, 0]])
    torch.testing.assert_close(terms["bpr"], -F.logsigmoid(margins).mean())
    factors = (1 + 4) + (4 + 1) + (1 + 1) + (0.25 + 1)  # users, tastes, positives, negatives
    biases = (0.1**2 + 0.3**2) + (0.2**2 + 0.1**2)
    matrix = (0.5**2 + 0.2**2) / 1.5
    torch.testing.assert_close(terms["reg"], torch.tensor(0.1 * (factors + biases) / 2 + 0.01 * matrix))


def test_propagation_leaves_the_bias_alone() -> None:
    model = hand_made()
    model.num_layers = 1
    users, items = model.embeddings()
    assert users.shape == (2, 3)
    torch.testing.assert_close(users[:, 2], torch.ones(2))
    torch.testing.assert_close(items[:, 2], torch.tensor([0.3, 0.0, 0.3]))
    torch.testing.assert_close(users[0, :2], torch.tensor([(1 + 1) / 2, (2 + 0.5) / 2]))


def test_features_enter_at_one_scale() -> None:
    x = torch.randn(50, 4)
    torch.testing.assert_close(
        ModalProjection(x, 2).features, ModalProjection(1e4 * x + 7, 2).features, atol=1e-3, rtol=1e-3
    )
    assert ModalProjection(torch.zeros(5, 2), 2).features.abs().max() == 0


def test_errors() -> None:
    for bad in ({"modal_dim": 0}, {"modal_l2": -1.0}, {"l2": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            VBPROptions(**bad)
