"""A channel from a social network: ``python examples/social.py --data DATA/lastfm``.

The folder holds interactions and ``social.tsv``, edges between users (columns user and friend, or a weight too).
Without ``--data`` the generated data set with its planted friendships is used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from infodcl_geo import configure, load_interactions, run
from infodcl_geo.channels import ChannelBuilder, Social, SocialGraph, UserSimilarity, load_social
from infodcl_geo.data.generated import demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the interactions and of social.tsv")
    parser.add_argument("--edges", type=Path, help="file of the edges; default: social.tsv of the folder")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    if options.data:
        data = load_interactions(options.data)
        friends = load_social(options.edges or options.data / "social.tsv", data)
    else:
        made = demo()
        data, friends = made.interactions, SocialGraph.from_edges(made.social, made.interactions.num_users)

    config = configure("infodcl", epochs=options.epochs, seed=options.seed)
    similar, social = UserSimilarity(), Social(friends)
    choices: dict[str, list[ChannelBuilder]] = {
        "similar users": [similar],
        "friends": [social],
        "both": [similar, social],
    }
    for name, channels in choices.items():
        outcome = run(data, config, channels=channels)
        print(f"{name}: test recall@20 {outcome.test['recall@20']:.4f}")
    for channel in outcome.channels:
        print(channel)


if __name__ == "__main__":
    main()
