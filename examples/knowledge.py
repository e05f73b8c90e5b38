"""A channel from a knowledge graph, three ways: ``python examples/knowledge.py --data DATA/ml-100k``.

The folder holds interactions and RecBole's ``<name>.kg`` (head, relation, tail) and ``<name>.link`` (item, entity).
Without ``--data`` the generated data set with its planted facts is used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from infodcl_geo import configure, load_interactions, run
from infodcl_geo.channels import Knowledge, KnowledgeGraph, load_knowledge
from infodcl_geo.data.generated import demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the interactions, the triples and the links")
    parser.add_argument("--methods", nargs="+", default=["shared", "propagate", "kge"])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    if options.data:
        data = load_interactions(options.data)
        graph = load_knowledge(options.data / f"{options.data.name}.kg", data)
    else:
        made = demo()
        data = made.interactions
        graph = KnowledgeGraph.from_item_facts(made.knowledge, data.num_items, made.relation_names)

    config = configure("infodcl", epochs=options.epochs, seed=options.seed)
    for method in options.methods:
        outcome = run(data, config, channels=[Knowledge(graph, method)])
        print(f"{method}: test recall@20 {outcome.test['recall@20']:.4f}, {outcome.channels[0].source}")


if __name__ == "__main__":
    main()
