"""InfoDCL's layers inside somebody else's PyG model: ``python examples/psnet_in_pyg.py``.

A two-layer GraphSAGE node classifier gets a contrastive term: each node's hidden state is diffused with informative
noise made from the mean of its neighbours' features, denoised in one step, and must stay closest to itself.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv, SimpleConv
from torch_geometric.utils import stochastic_blockmodel_graph

from infodcl_geo.kernels import infonce
from infodcl_geo.nn import Denoiser, ForwardDiffusion, PSNet


class ContrastiveSAGE(nn.Module):
    def __init__(self, features: int, hidden: int, classes: int, metadata: Tensor) -> None:
        super().__init__()
        self.first, self.second = SAGEConv(features, hidden), SAGEConv(hidden, classes)
        self.psnet = PSNet(hidden).fit(metadata)
        self.diffusion, self.denoiser = ForwardDiffusion("exp", steps=200), Denoiser(hidden)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(x, edge_index).relu()
        return self.second(hidden, edge_index), hidden

    def contrast(self, hidden: Tensor, metadata: Tensor, anchors: Tensor) -> Tensor:
        t = self.diffusion.sample_steps(anchors.numel())
        noise = self.psnet(torch.randn_like(hidden[anchors]), metadata[anchors])
        generated = self.denoiser(self.diffusion(hidden[anchors], noise, t), t)
        return infonce(generated, hidden, anchors, temperature=0.5)


def two_communities(seed: int) -> Data:
    """Two hundred nodes in two communities, with features that hint at the community."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    edge_index = stochastic_blockmodel_graph([100, 100], torch.tensor([[0.06, 0.01], [0.01, 0.06]]))
    y = torch.arange(2).repeat_interleave(100)
    x = torch.randn(200, 16, generator=generator) + 0.3 * (2 * y[:, None] - 1)
    return Data(x=x, y=y, edge_index=edge_index, train_mask=torch.rand(200, generator=generator) < 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = two_communities(options.seed)
    metadata = SimpleConv(aggr="mean")(data.x, data.edge_index)
    model = ContrastiveSAGE(16, 16, 2, metadata)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(options.epochs):
        optimizer.zero_grad()
        logits, hidden = model(data.x, data.edge_index)
        loss = F.cross_entropy(logits[data.train_mask], data.y[data.train_mask])
        loss = loss + 0.1 * model.contrast(hidden, metadata, torch.randperm(200)[:64])
        loss.backward()
        optimizer.step()
    right = (model(data.x, data.edge_index)[0].argmax(1) == data.y)[~data.train_mask]
    print(f"accuracy {right.float().mean():.3f}")


if __name__ == "__main__":
    main()
