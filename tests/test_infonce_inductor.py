"""A model over InfoNCE, PSNet and the batched SVD in one TorchInductor graph: the same numbers as without."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from infodcl_geo.kernels import infonce
from infodcl_geo.nn.diffusion import Denoiser
from infodcl_geo.nn.psnet import PSNet

ITEMS, DIM = 40, 16


class Contrast(nn.Module):
    """InfoDCL's contrastive step, random numbers given from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ITEMS, DIM)
        self.register_buffer("metadata", torch.randn(ITEMS, DIM))
        self.psnet = PSNet(DIM, basis="item")
        self.denoiser = Denoiser(DIM)

    def forward(self, items: Tensor, noise: Tensor, level: Tensor, t: Tensor) -> Tensor:
        _, z = self.psnet.diffuse(noise, self.metadata[items], self.table(items), level)
        generated = self.denoiser(z, t)
        return infonce(generated, self.table.weight, items, 0.2) + (generated - self.table(items)).square().mean()


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler, which TorchInductor needs"
)
def test_model_compiles_to_one_graph() -> None:
    torch.manual_seed(0)
    model = Contrast()
    with torch.no_grad():
        model.psnet.alpha.fill_(0.5)
        model.psnet.eta0.fill_(0.5)
    items = torch.tensor([3, 39, 0, 3, 17])
    arguments = (items, torch.randn(5, DIM), torch.rand(5), torch.tensor([1, 50, 200, 7, 7]))
    compiled = torch.compile(model, fullgraph=True)
    expected, actual = model(*arguments), compiled(*arguments)
    torch.testing.assert_close(actual, expected)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(expected, parameters)
    for (name, _), one, other in zip(
        model.named_parameters(), torch.autograd.grad(actual, parameters), wanted, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
