"""Channels from feature matrices of items: ``python examples/modal.py --data DATA/tiktok --features audio image``.

The folder holds interactions and ``<name>_feat.npy``, one row for each item, in the order of ids that are 0 to n - 1,
or of the ids in ``--feature_ids``. Every matrix is a channel of its own; all train together. Without ``--data`` the
generated data set is used, with noisy pictures of its planted topics.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from infodcl_geo import configure, load_interactions, run
from infodcl_geo.channels import ItemFeatures, Modal, load_features
from infodcl_geo.data.generated import demo


def planted_features(topics: torch.Tensor, name: str, noise: float, seed: int) -> ItemFeatures:
    """A random picture of each topic, seen through noise."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(topics.size(1), 96, generator=generator)
    seen = topics.float() @ picture + noise * torch.randn(topics.size(0), 96, generator=generator)
    return ItemFeatures.from_matrix(seen, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the interactions and the features")
    parser.add_argument("--features", nargs="+", default=["audio", "image"])
    parser.add_argument("--feature_ids", type=Path, help="file with the item id of each row, one a line")
    parser.add_argument("--aggregate", choices=["features", "neighbours"], default="features")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    if options.data:
        data = load_interactions(options.data)
        files = [options.data / f"{name}_feat.npy" for name in options.features]
        found = [load_features(file, data, ids=options.feature_ids) for file in files]
    else:
        made = demo()
        data = made.interactions
        found = [planted_features(made.item_interests, n, 2.0 + k, seed=k) for k, n in enumerate(options.features)]

    config = configure("infodcl", epochs=options.epochs, seed=options.seed)
    outcome = run(data, config, channels=[Modal(features, options.aggregate) for features in found])
    for channel in outcome.channels:
        print(f"{channel.name}: {channel.source}")
    print(f"test recall@20 {outcome.test['recall@20']:.4f}")


if __name__ == "__main__":
    main()
