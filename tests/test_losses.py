"""Terms of the objective by hand."""

from __future__ import annotations

import math

import pytest
import torch

from infodcl_geo.nn.losses import balance_loss, bpr_loss, embedding_penalty, reconstruction_loss


def test_bpr_by_hand() -> None:
    users = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    positives, negatives = torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 5.0], [4.0, 2.0]])
    # Differences of scores: 3 - 1 = 2 and 2 - 4 = -2.
    expected = -(math.log(1 / (1 + math.exp(-2))) + math.log(1 / (1 + math.exp(2)))) / 2
    assert bpr_loss(users, positives, negatives).item() == pytest.approx(expected)


def test_bpr_of_a_lost_pair_does_not_overflow() -> None:
    big = torch.tensor([[1e4]])
    assert bpr_loss(big, -big, big).item() == pytest.approx(2e8)


def test_reconstruction_by_hand() -> None:
    target, generated = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert reconstruction_loss(target, generated).item() == (5 + 25) / 2


def test_balance_by_hand() -> None:
    generated = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert balance_loss(generated).item() == pytest.approx(5 / 2)
    assert balance_loss(generated, "squared").item() == pytest.approx(25 / 2)
    with pytest.raises(ValueError, match="balance loss must be"):
        balance_loss(generated, "cubed")  # type: ignore[arg-type]


def test_balance_has_a_gradient_at_zero() -> None:
    generated = torch.zeros(2, 3, requires_grad=True)
    balance_loss(generated).backward()
    assert torch.isfinite(generated.grad).all()  # type: ignore[arg-type]


def test_penalty_by_hand() -> None:
    a, b = torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 0.0]])
    assert embedding_penalty(a, b).item() == pytest.approx((2 + 4) / 2 + 9 / 2)


@pytest.mark.parametrize("kind", ["norm", "squared"])
def test_gradients(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, z = (torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(bpr_loss, (x, y, z))
    assert torch.autograd.gradcheck(reconstruction_loss, (x, y))
    assert torch.autograd.gradcheck(lambda t: balance_loss(t, kind), (x,))  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(embedding_penalty, (x, y, z))
