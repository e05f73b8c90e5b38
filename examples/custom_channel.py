"""A channel of your own: item metadata from any graph, here a knowledge graph: ``python examples/custom_channel.py``.

A channel is a tensor ``[num_items, d]``. This one describes an item by the mean spectral vector of the items that
share an entity with it.
"""

from __future__ import annotations

import argparse

import torch

from infodcl_geo.channels import spectral_embeddings
from infodcl_geo.datasets import demo
from infodcl_geo.experiment import default_config, run
from infodcl_geo.graph import Graph, sparse_matrix
from infodcl_geo.similarity import jaccard_graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    generated = demo()
    data = generated.interactions
    items_entities = torch.unique(torch.stack([generated.heads, generated.tails]), dim=1)
    shape = (data.num_items, int(generated.tails.max()) + 1)
    similar = jaccard_graph(Graph(sparse_matrix(*items_entities, None, shape)), top_k=20)
    _, vectors = spectral_embeddings(data.train, data.num_users, data.num_items, 64)
    channel = similar @ vectors

    config = default_config("infodcl", epochs=options.epochs, seed=options.seed)
    for name, channels in (("similar users", None), ("knowledge graph", {"knowledge": channel})):
        outcome = run(data, config, channels=channels)
        print(f"{name}: test recall@20 {outcome.test['recall@20']:.4f}")


if __name__ == "__main__":
    main()
