"""What a channel is worth: no channel, similarity, a real graph, its shuffle, both, and metadata lost to noise.

    python benchmarks/channels.py --data ../shared/data/lastfm --social ../shared/data/lastfm/social.tsv \\
        --noise 0.3 0.7 1.0 --out benchmarks/results/channels_lastfm.csv
    python benchmarks/channels.py --data ../shared/data/ml-100k --knowledge ../shared/data/ml-100k/ml-100k.kg --out ...
    python benchmarks/channels.py --data ../shared/data/tiktok --features ../shared/data/tiktok/audio_feat.npy --out ...
    python benchmarks/channels.py --data demo --social planted --epochs 60 --out ...

Options that are not listed below are those of ``infodcl-geo train`` for InfoDCL (``--infodcl.channel_weights learned``,
``--num_layers``, ...) and hold for all variants; keep runs of different ones in different files.

Only the channel differs: ``no channel`` has the objective that InfoDCL leaves when its diffusion is taken away, BPR and
the penalty in InfoDCL's proportion with InfoDCL's learning rate, start and propagation. ``real graph shuffled`` is made
like ``real graph``, from edges that keep every degree and are exchanged anew for each seed (features that are metadata
themselves are dealt anew among the items that have them). ``noise`` replaces a share
of the rows of the real graph's metadata, other ones for each seed, by Gaussian rows of the same root mean square;
``similarity and noise`` has the similarity channel beside one that is nothing but such rows.

The epoch is chosen on validation, the test split scored once a run. Runs already in the CSV are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tabulate import tabulate

from infodcl_geo.channels.base import Channel, PretrainedVectors
from infodcl_geo.channels.diagnostics import inspect_channel, shuffled
from infodcl_geo.channels.knowledge import Knowledge, KnowledgeGraph, load_knowledge
from infodcl_geo.channels.modal import Modal, load_features
from infodcl_geo.channels.similarity import ItemSimilarity, UserSimilarity
from infodcl_geo.channels.social import Social, SocialGraph, load_social
from infodcl_geo.cli import config_of
from infodcl_geo.data.generated import Demo, demo
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.experiment import Config, best_num_layers, pretrain, run
from infodcl_geo.graph.graph import Graph

NO_CHANNEL, SIMILARITY, REAL, SHUFFLED, BOTH, BESIDE_NOISE = VARIANTS = (
    "no channel",
    "similarity only",
    "real graph",
    "real graph shuffled",
    "both",
    "similarity and noise",
)
METRICS = ("recall@20", "ndcg@20")


def real_channel(
    options: argparse.Namespace, data: Interactions, planted: Demo | None, vectors: PretrainedVectors
) -> Channel:
    """The channel of the real graph."""
    if options.social:
        social = planted.social if planted else load_social(options.social, data)
        return Social(social, directed=not options.undirected)(data, vectors)
    if options.knowledge:
        if planted:
            graph = KnowledgeGraph.from_item_facts(planted.knowledge, data.num_items, planted.relation_names)
        else:
            graph = load_knowledge(options.knowledge, data)
        return Knowledge(graph)(data, vectors)
    return Modal(load_features(options.features, data), options.feature_metadata)(data, vectors)


def shuffled_channel(
    channel: Channel, data: Interactions, vectors: PretrainedVectors, seed: int, *, by_row: bool
) -> Channel:
    """The same channel from a shuffled graph; ``by_row`` deals the rows of the covered items anew, for metadata that
    are not made from the graph."""
    assert channel.graph is not None
    generator = torch.Generator().manual_seed(seed)
    if by_row:
        rows = channel.covered.nonzero()[:, 0]
        metadata = channel.metadata.clone()
        metadata[rows] = metadata[rows[torch.randperm(len(rows), generator=generator)]]
        return replace(channel, metadata=metadata)
    graph = shuffled(channel.graph, generator)
    if channel.over == "users":
        # The channel's graph is what its friends were taken from, whichever way the edges were read.
        return Social(SocialGraph(graph, f"{channel.source}, shuffled"), name=channel.name)(data, vectors)
    return replace(channel, metadata=item_mean(graph, vectors), graph=graph, source=f"{channel.source}, shuffled")


def item_mean(graph: Graph, vectors: PretrainedVectors) -> torch.Tensor:
    """Weighted mean of the neighbours' vectors, as the channels over items make it; without neighbours an own one."""
    total = graph @ torch.ones(graph.shape[1], 1)
    return torch.where(total > 0, (graph @ vectors.items) / total.clamp(min=1e-30), vectors.items)


def noisy_channel(channel: Channel, share: float, seed: int) -> Channel:
    """A share of the metadata's rows replaced by Gaussian ones of the same root mean square."""
    generator = torch.Generator().manual_seed(seed)
    metadata = channel.metadata.clone()
    rows = torch.randperm(len(metadata), generator=generator)[: round(share * len(metadata))]
    scale = metadata.square().mean().sqrt()
    metadata[rows] = scale * torch.randn(len(rows), metadata.size(1), generator=generator)
    return replace(channel, metadata=metadata)


def configuration(variant: str, fixed: Sequence[str], seed: int) -> Config:
    """InfoDCL's settings; without a channel what is left of its objective, up to a factor that Adam does not see."""
    config = config_of("infodcl", ["train", *fixed, f"--seed={seed}"])
    if variant != NO_CHANNEL:
        return config
    penalty = config.model.penalty / (1 - config.infodcl.reconstruction)
    return replace(config, model=replace(config.model, model="mf", penalty=penalty))


def one_run(data: Interactions, config: Config, channels: list[Channel], vectors: PretrainedVectors) -> dict[str, Any]:
    outcome = run(data, config, channels=channels, vectors=vectors, ks=(20,), progress=False)
    result = outcome.result
    groups = {
        f"test recall@20, {who} of degree {name}": group["recall@20"]
        for who, by_degree in (("users", outcome.test_by_user_degree), ("items", outcome.test_by_item_degree))
        for name, group in by_degree.items()
        if "recall@20" in group
    }
    return {
        "best_epoch": result.best_epoch,
        "seconds_per_epoch": result.seconds_per_epoch,
        **{f"weight {name}": channel["weight"] for name, channel in outcome.metrics()["channels"].items()},
        **{f"valid {metric}": result.validation[metric] for metric in METRICS},
        **{f"test {metric}": outcome.test[metric] for metric in METRICS},
        **groups,
    }


def spread(values: pd.Series, digits: int, sign: str = "") -> str:
    """Mean and, of several seeds, standard deviation."""
    mean = f"{values.mean():{sign}.{digits}f}"
    return f"{mean} ± {values.std():.{digits}f}" if len(values) > 1 else mean


def noise_name(share: float) -> str:
    return f"{REAL}, {100 * share:g}% noise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set, in any format the library reads, or 'demo'")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--social", help="edges between users; 'planted' for the demo's")
    kind.add_argument("--knowledge", help="knowledge triples; 'planted' for the demo's")
    kind.add_argument("--features", help="feature matrix of the items")
    parser.add_argument("--undirected", action="store_true", help="those who follow a user are its friends too")
    parser.add_argument("--feature-metadata", choices=("features", "neighbours"), default="features", help="see Modal")
    parser.add_argument("--similarity", choices=("user", "item"), default="user", help="the similarity channel")
    parser.add_argument("--out", required=True, type=Path, help="CSV of all runs; runs in it are not repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS[:-1]), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--noise", type=float, nargs="*", default=[], help="shares of rows, 0 is the real graph itself")
    options, fixed = parser.parse_known_args()
    planted = demo() if options.data == "demo" else None
    data = planted.interactions if planted else load_interactions(options.data)

    config = config_of("infodcl", ["train", *fixed])
    vectors = pretrain(data, config, device=torch.device("cpu"), progress=False)
    if config.model.num_layers is None:
        fixed.append(f"--num_layers={best_num_layers(data, vectors)}")
    similarity = (UserSimilarity() if options.similarity == "user" else ItemSimilarity())(data, vectors)
    real = real_channel(options, data, planted, vectors)
    print(inspect_channel(data, real).summary(), file=sys.stderr)

    def channels_of(variant: str, seed: int) -> list[Channel]:
        if variant in (NO_CHANNEL, SIMILARITY):
            return [similarity] if variant == SIMILARITY else []
        if variant == SHUFFLED:
            by_row = bool(options.features) and options.feature_metadata == "features"
            return [shuffled_channel(real, data, vectors, seed, by_row=by_row)]
        if variant in (REAL, BOTH):
            return [real] if variant == REAL else [similarity, real]
        if variant == BESIDE_NOISE:
            return [similarity, noisy_channel(real, 1.0, seed)]
        return [noisy_channel(real, shares[variant], seed)]

    shares = {noise_name(share): share for share in options.noise if share > 0}
    variants = [*options.variants, *shares]
    if 0 in options.noise and REAL not in variants:
        variants.insert(len(options.variants), REAL)
    rows: list[dict[Any, Any]] = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    for seed in options.seeds:
        for variant in variants:
            config = configuration(variant, fixed, seed)
            key: dict[Any, Any] = {
                "data": data.name,
                "variant": variant,
                "seed": seed,
                "epochs": config.training.epochs,
            }
            key |= {"layers": config.model.num_layers}
            if any(all(row[name] == value for name, value in key.items()) for row in rows):
                continue
            rows.append({**key, **one_run(data, config, channels_of(variant, seed), vectors)})
            options.out.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(options.out, index=False)
            print(
                {name: rows[-1][name] for name in (*key, "best_epoch", "test recall@20")}, file=sys.stderr, flush=True
            )

    table = pd.DataFrame(rows)
    table = table[
        (table["data"] == data.name)
        & (table["epochs"] == config.training.epochs)
        & (table["layers"] == config.model.num_layers)
        & table["seed"].isin(options.seeds)
    ].set_index("seed")
    columns = ["valid ndcg@20", "test recall@20", "test ndcg@20"]
    summary = []
    without = table[table["variant"] == NO_CHANNEL]
    for variant in variants:
        group = table[table["variant"] == variant]
        cells = [spread(group[column], 4) for column in columns]
        # Of the same seed, so with the same start and the same batches.
        change = 100 * (group["test ndcg@20"] / without["test ndcg@20"] - 1)
        summary.append([variant, *cells, spread(change.dropna(), 1, "+") if change.notna().any() else "-"])
    headers = ["variant", *columns, "test ndcg@20 against no channel, %"]
    print(tabulate(summary, headers=headers, tablefmt="github", disable_numparse=True))
    print(f"\n{data.name}: {real!r}; {len(options.seeds)} seeds, mean ± standard deviation")
    for who in ("users", "items"):
        by_degree = [name for name in table.columns if name.startswith(f"test recall@20, {who}")]
        cold = [
            [variant, *(f"{table[table['variant'] == variant][name].mean():.4f}" for name in by_degree)]
            for variant in variants
        ]
        headers = [f"recall@20 by degree of {who}", *(name.rpartition(" ")[2] for name in by_degree)]
        print()
        print(tabulate(cold, headers=headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
