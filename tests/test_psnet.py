"""PSNet the layer: equations 1 to 8 against a plain twin, the three bases, the ablations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infodcl_geo.nn.psnet import PSNet, batch_basis, item_shape, population_basis

DIM = 6


def metadata_like(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, DIM, generator=generator) @ torch.randn(DIM, DIM, generator=generator)


def randomised(**options: object) -> PSNet:
    torch.manual_seed(1)
    net = PSNet(DIM, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.5)
    return net.fit(metadata_like(40))


def mlp(first: torch.nn.Linear, second: torch.nn.Linear, x: Tensor) -> Tensor:
    inside = x @ first.weight.T + first.bias
    return (inside * torch.sigmoid(inside)) @ second.weight.T + second.bias


def twin(net: PSNet, eps: Tensor, m: Tensor, u: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three summands of eq. 8, written out."""
    phi_m = m @ net.metadata_embedding.weight.T + net.metadata_embedding.bias
    parts = [
        mlp(net.left_in, net.left_out, u),
        mlp(net.right_in, net.right_out, v).expand(len(eps), -1),
        mlp(net.values_in, net.values_out, s).expand(len(eps), -1),
    ]
    g = mlp(net.phi_in, net.phi_out, torch.cat(parts, 1))
    rectified = eps + m + torch.tanh(net.alpha) * g
    h = (eps + phi_m) @ net.psi.weight.T + net.psi.bias
    centred = h - h.mean(1, keepdim=True)
    h = centred / (h.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt() * net.norm.weight + net.norm.bias
    encoded = net.eta0 * (eps + torch.sigmoid(net.rho) * h)
    return rectified, encoded, torch.sigmoid(net.eta1 - 1) * phi_m


def hand_features(net: PSNet, y: Tensor, basis: str) -> tuple[Tensor, Tensor, Tensor]:
    if basis == "item":
        rows, columns = item_shape(DIM)
        left, values, right = torch.linalg.svd(y.view(-1, rows, columns), full_matrices=False)
        sign = right.gather(-1, right.abs().argmax(-1, keepdim=True)).sign()
        left, right = left * sign.transpose(1, 2), right * sign
        return left.flatten(1), values, right.flatten(1)
    if basis == "batch":
        left, values, right = torch.linalg.svd(y, full_matrices=False)
        sign = right.gather(-1, right.abs().argmax(-1, keepdim=True)).sign().squeeze(-1)
        root = len(y) ** 0.5
        return left * sign * root, values[None] / root, (right[0] * sign[0])[None]
    values, vectors = net.population_values, net.population_vectors
    return y @ vectors / values, values[None], vectors[:, 0][None]


@pytest.mark.parametrize("basis", ["population", "batch", "item"])
def test_equations_one_to_eight(basis: str) -> None:
    net = randomised(basis=basis)
    eps, m = torch.randn(20, DIM, generator=torch.Generator().manual_seed(2)), metadata_like(20, 3)
    expected = sum(twin(net, eps, m, *hand_features(net, eps + m, basis)))
    torch.testing.assert_close(net(eps, m), expected, rtol=1e-3, atol=1e-4)


def test_ablations_drop_their_term_and_nothing_else() -> None:
    eps, m = torch.randn(5, DIM), metadata_like(5)
    net = randomised()
    rectified, encoded, residual = twin(net, eps, m, *hand_features(net, eps + m, "population"))
    torch.testing.assert_close(randomised(spectral=False)(eps, m), encoded + residual, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(randomised(contextual=False)(eps, m), rectified + residual, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no noise is left"):
        PSNet(DIM, spectral=False, contextual=False)


def test_signed_gate() -> None:
    eps, m = torch.randn(5, DIM), metadata_like(5)
    paper, signed = randomised(), randomised(gate="signed")
    phi_m = paper.metadata_embedding(m)
    difference = (2 * torch.sigmoid(paper.eta1) - 1 - torch.sigmoid(paper.eta1 - 1)) * phi_m
    torch.testing.assert_close(signed(eps, m) - paper(eps, m), difference, rtol=1e-4, atol=1e-5)


def test_a_fresh_network_starts_from_the_noise_and_the_metadata() -> None:
    torch.manual_seed(0)
    net = PSNet(DIM)
    eps, m = torch.randn(3, DIM), metadata_like(3)
    start = eps + m + torch.sigmoid(torch.tensor(-1.0)) * net.metadata_embedding(m)
    torch.testing.assert_close(net(eps, m), start)


def test_batch_basis_converges_to_the_population() -> None:
    metadata = metadata_like(50)
    values, vectors = population_basis(metadata)
    generator = torch.Generator().manual_seed(5)
    errors = []
    for size in (100, 10_000, 1_000_000):
        rows = metadata[torch.randint(0, 50, (size,), generator=generator)]
        batch_values, batch_vectors = batch_basis(torch.randn(size, DIM, generator=generator) + rows)
        errors.append((float((batch_values / values - 1).abs().max()), float((batch_vectors - vectors).abs().max())))
    assert errors[0][0] > 3 * errors[1][0] > 9 * errors[2][0]
    assert errors[2][0] < 0.01
    assert errors[2][1] < 0.02


def test_population_basis_by_hand() -> None:
    # Second moments 8 and 2 along the axes, second axis first.
    metadata = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    values, vectors = population_basis(metadata)
    torch.testing.assert_close(values, torch.tensor([3.0, 3.0**0.5]))
    torch.testing.assert_close(vectors, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize("basis", ["population", "batch", "item"])
def test_gradient_reaches_metadata_that_wants_it(basis: str) -> None:
    net = randomised(basis=basis).double()
    eps = torch.randn(8, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    m = metadata_like(8, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: net(eps, t), (m,), rtol=1e-3, atol=1e-5)


def test_item_shape_is_the_most_square_one() -> None:
    assert [item_shape(dim) for dim in (64, 60, 128, 7, 256)] == [(8, 8), (6, 10), (8, 16), (1, 7), (16, 16)]


def test_basis_travels_with_the_weights() -> None:
    net = randomised()
    other = PSNet(DIM)
    other.load_state_dict(net.state_dict())
    eps, m = torch.randn(3, DIM), metadata_like(3)
    torch.testing.assert_close(other(eps, m), net(eps, m))


def test_repr_and_bad_arguments() -> None:
    assert "basis='item'" in repr(PSNet(DIM, basis="item"))
    with pytest.raises(ValueError, match="basis must be"):
        PSNet(DIM, basis="global")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gate must be"):
        PSNet(DIM, gate="open")  # type: ignore[arg-type]
