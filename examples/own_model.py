"""A model of your own in one file: ``infodcl-geo train --data demo --model examples/own_model.py:recipe``.

The loss is softmax over the batch's items by cosine, the rest is shared with LightGCN. What a model has to have is its
options, its class and a ``Recipe``, which then goes wherever a model's name goes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo import EmbeddingModel, Recipe, configure, run
from infodcl_geo.data.generated import demo
from infodcl_geo.models.base import Batch
from infodcl_geo.models.options import EmbeddingOptions


@dataclass(frozen=True)
class SoftmaxOptions(EmbeddingOptions):
    """Options of the softmax.

    Args:
        temperature: of the softmax over the batch's items.
    """

    temperature: float = 0.2


class SoftmaxLightGCN(EmbeddingModel):
    """Propagated embeddings; each user's item against the other items of the batch."""

    Options = SoftmaxOptions

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        users, items = self.propagated()
        u, i = F.normalize(users[batch.users]), F.normalize(items[batch.positives])
        logits = u @ i.T / self.options.temperature
        return {"softmax": F.cross_entropy(logits, torch.arange(len(u), device=u.device))}


recipe = Recipe(
    name="softmax-lightgcn",
    summary="LightGCN with a softmax over the batch",
    paper="-",
    options=SoftmaxOptions,
    build=lambda inputs, options: SoftmaxLightGCN(inputs.graph, *inputs.sizes, options=options),
    training={"lr": 0.002},
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    outcome = run(demo().interactions, configure(recipe, epochs=parser.parse_args().epochs))
    print(f"test recall@20 {outcome.test['recall@20']:.4f}")
