"""What a channel is worth: no channel, similarity, a real graph, its shuffle, both, and metadata lost to noise.

    python benchmarks/channels.py --data ../shared/data/lastfm --social ../shared/data/lastfm/social.tsv \\
        --noise 0.3 0.7 1.0 --out benchmarks/results/channels_lastfm.csv
    python benchmarks/channels.py --data ../shared/data/ml-100k --knowledge ../shared/data/ml-100k/ml-100k.kg --out ...
    python benchmarks/channels.py --data ../shared/data/tiktok --features ../shared/data/tiktok/audio_feat.npy --out ...
    python benchmarks/channels.py --data demo --social planted --epochs 60 --out ...

Options that are not listed below are those of ``infodcl-geo train`` for InfoDCL (``--channel_weights learned``,
``--num_layers``, those of the data, ...) and hold for all variants.

Only the channel differs: ``no channel`` has the objective that InfoDCL leaves when its diffusion is taken away, BPR and
the regulariser in InfoDCL's proportion with InfoDCL's learning rate, start and propagation. ``real graph shuffled`` is
made like ``real graph``, from edges that keep every degree and are exchanged anew for each seed (features that are
metadata themselves are dealt anew among the items that have them). ``noise`` replaces a share of the rows
of the real graph's metadata, other ones for each seed, by Gaussian rows of the same root mean square; ``similarity and
noise`` has the similarity channel beside one that is nothing but such rows.

The epoch is chosen on validation, the test split scored once a run. Runs already in the CSV are not repeated, as long
as the data, the settings and the metadata that they read stay the same.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import torch
from tabulate import tabulate

from infodcl_geo import Config, InfodclGeoError, Interactions, configure, run
from infodcl_geo.channels.base import Channel, PretrainedVectors
from infodcl_geo.channels.diagnostics import inspect_channel
from infodcl_geo.channels.knowledge import Knowledge, KnowledgeGraph, load_knowledge
from infodcl_geo.channels.modal import Modal, load_features
from infodcl_geo.channels.shuffle import shuffled
from infodcl_geo.channels.similarity import ItemSimilarity, UserSimilarity
from infodcl_geo.channels.social import Social, SocialGraph, load_social
from infodcl_geo.cli.parsing import data_of
from infodcl_geo.cli.train import parsed
from infodcl_geo.comparison import Entry, TableFile, describe, entry_with
from infodcl_geo.configuration import TRAINING
from infodcl_geo.data.generated import Demo, demo
from infodcl_geo.graph.graph import Graph
from infodcl_geo.models import find_recipe
from infodcl_geo.pretraining import best_num_layers, pretrain

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


def configuration(variant: str, config: Config) -> Config:
    """InfoDCL's settings; without a channel what is left of its objective, up to a factor that Adam does not see."""
    if variant != NO_CHANNEL:
        return config
    options, without = config.flat(), find_recipe("mf")
    kept = {name: value for name, value in options.items() if name in {*without.option_names, *TRAINING}}
    return configure(without, **{**kept, "l2": options["l2"] / (1 - options["reconstruction"])})


def fingerprint(channels: Sequence[Channel]) -> dict[str, str]:
    """What the channels hold, so that a run is not taken for one of another graph."""
    return {c.name: hashlib.sha256(c.metadata.contiguous().numpy().tobytes()).hexdigest() for c in channels}


def one_run(data: Interactions, config: Config, channels: list[Channel], vectors: PretrainedVectors) -> dict[str, Any]:
    """Columns of the table."""
    outcome = run(data, config, channels=channels, vectors=vectors, ks=(20,), progress=False)
    result, notes = outcome.result, outcome.model.notes()
    groups = {
        f"test recall@20, {who} of degree {name}": group["recall@20"]
        for who, by_degree in (("users", outcome.test_by_user_degree), ("items", outcome.test_by_item_degree))
        for name, group in by_degree.items()
        if "recall@20" in group
    }
    return {
        "best_epoch": result.best_epoch,
        "seconds_per_epoch": result.seconds_per_epoch,
        **{f"weight {name}": found["weight"] for name, found in notes.items() if "weight" in found},
        **{f"valid {metric}": result.validation[metric] for metric in METRICS},
        **{f"test {metric}": outcome.test[metric] for metric in METRICS},
        **groups,
    }


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean and, of several seeds, standard deviation."""
    mean = f"{fmean(values):{sign}.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f}" if len(values) > 1 else mean


def noise_name(share: float) -> str:
    return f"{REAL}, {100 * share:g}% noise"


def study(options: argparse.Namespace, words: list[str]) -> tuple[list[Entry], str]:
    """All runs, the missing ones executed, and what they were made of."""
    table = TableFile(options.out)
    recipe = find_recipe("infodcl")
    namespace, config = parsed([f"--data={options.data}", *words], recipe)
    planted = demo() if options.data == "demo" else None
    data = planted.interactions if planted else data_of(namespace).load()
    chosen, vectors = pretrain(data, config.options)
    config = replace(config, options=chosen)
    if chosen.num_layers is None:
        config = config.changed(num_layers=best_num_layers(data, vectors))
    similarity = (UserSimilarity() if options.similarity == "user" else ItemSimilarity())(data, vectors)
    real = real_channel(options, data, planted, vectors)
    print(inspect_channel(data, real).summary(), file=sys.stderr)

    shares = {noise_name(share): share for share in options.noise if share > 0}
    variants = [*options.variants, *shares]
    if 0 in options.noise and REAL not in variants:
        variants.insert(len(options.variants), REAL)

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

    entries = []
    for seed in options.seeds:
        for variant in variants:
            one, channels = configuration(variant, config.changed(seed=seed)), channels_of(variant, seed)
            settings = describe(data, one, (20,), False, study="channels", metadata=fingerprint(channels))
            entry = table.find(settings, (), variant)
            if entry is None:
                entry = entry_with(one_run(data, one, channels, vectors), one, data, settings, label=variant)
                table.add(entry)
                shown = {name: entry.row[name] for name in ("label", "seed", "best_epoch", "test recall@20")}
                print(shown, file=sys.stderr, flush=True)
            entries.append(replace(entry, label=variant))
    return entries, f"{data.name}: {real!r}"


def show(entries: Sequence[Entry], caption: str) -> None:
    """The tables: all users, then users and items by their degree."""
    variants = list(dict.fromkeys(entry.label for entry in entries))
    rows = {variant: [entry.row for entry in entries if entry.label == variant] for variant in variants}
    without = {row["seed"]: row["test ndcg@20"] for row in rows.get(NO_CHANNEL, [])}
    columns = ["valid ndcg@20", "test recall@20", "test ndcg@20"]
    summary = []
    for variant in variants:
        cells = [spread([row[column] for row in rows[variant]], 4) for column in columns]
        # Of the same seed, so with the same start and the same batches.
        change = [
            100 * (row["test ndcg@20"] / without[row["seed"]] - 1) for row in rows[variant] if row["seed"] in without
        ]
        summary.append([variant, *cells, spread(change, 1, "+") if change else "-"])
    headers = ["variant", *columns, "test ndcg@20 against no channel, %"]
    print(tabulate(summary, headers=headers, tablefmt="github", disable_numparse=True))
    print(f"\n{caption}; {len({entry.row['seed'] for entry in entries})} seeds, mean ± standard deviation")
    for who in ("users", "items"):
        start = f"test recall@20, {who}"
        by_degree = list(dict.fromkeys(name for e in entries for name in e.row if name.startswith(start)))
        cold = []
        for variant in variants:
            known = [[row[name] for row in rows[variant] if name in row] for name in by_degree]
            cold.append([variant, *(f"{fmean(values):.4f}" if values else "-" for values in known)])
        headers = [f"recall@20 by degree of {who}", *(name.rpartition(" ")[2] for name in by_degree)]
        print()
        print(tabulate(cold, headers=headers, tablefmt="github", disable_numparse=True))


def main(argv: Sequence[str] | None = None) -> int | str:
    """0, or what went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", required=True, help="data set, in any format the library reads, or 'demo'")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--social", help="edges between users; 'planted' for the demo's")
    kind.add_argument("--knowledge", help="knowledge triples; 'planted' for the demo's")
    kind.add_argument("--features", help="feature matrix of the items")
    parser.add_argument("--undirected", action="store_true", help="those who follow a user are its friends too")
    parser.add_argument("--feature-metadata", choices=("features", "neighbours"), default="features", help="see Modal")
    parser.add_argument("--similarity", choices=("user", "item"), default="user", help="the similarity channel")
    parser.add_argument("--out", required=True, help="CSV of all runs; runs in it are not repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS[:-1]), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--noise", type=float, nargs="*", default=[], help="shares of rows, 0 is the real graph itself")
    options, words = parser.parse_known_args(argv)
    try:
        show(*study(options, words))
    except InfodclGeoError as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
