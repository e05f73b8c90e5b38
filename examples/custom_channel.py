"""A channel of your own: any function of interactions and pretrained vectors: ``python examples/custom_channel.py``.

This one describes an item by what its users took. It trains alone and beside a ready channel, on the generated data set
or on ``--data``.
"""

from __future__ import annotations

import argparse

from infodcl_geo import configure, run
from infodcl_geo.channels import Channel, ChannelBuilder, PretrainedVectors, UserSimilarity
from infodcl_geo.data.generated import demo
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.graph.graph import interaction_graph
from infodcl_geo.nn import NeighbourMean


def baskets(data: Interactions, vectors: PretrainedVectors) -> Channel:
    """The mean, over an item's users, of the mean vector of all they took."""
    taken = interaction_graph(data.train, data.num_users, data.num_items)
    mean = NeighbourMean()
    users = mean((vectors.items, vectors.users), taken)
    metadata = mean((users, vectors.items), taken.t())
    covered = data.train[1].bincount(minlength=data.num_items) > 0
    return Channel("baskets", metadata, f"baskets of {data.num_users} users", covered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder or file of interactions")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = load_interactions(options.data) if options.data else demo().interactions
    config = configure("infodcl", epochs=options.epochs, seed=options.seed)
    choices: dict[str, list[ChannelBuilder]] = {
        "baskets": [baskets],
        "baskets and similar users": [baskets, UserSimilarity()],
    }
    for name, channels in choices.items():
        outcome = run(data, config, channels=channels)
        print(f"{name}: test recall@20 {outcome.test['recall@20']:.4f}")


if __name__ == "__main__":
    main()
