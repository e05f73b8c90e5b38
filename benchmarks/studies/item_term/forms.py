"""Which sparse form of item-item weights: EASE by neighbourhood, or SLIM by coordinate descent? Quality and cost.

    python benchmarks/studies/item_term/forms.py ../shared/data/office ../shared/data/electronics
    python benchmarks/studies/item_term/forms.py --generated 52974

The first prints, for each folder, NDCG@20 on validation and CPU seconds of EASE in closed form, of its local form, and
of SLIM (with Numba). The second prints CPU seconds and peak memory at the size of the InfoDCL paper's
Amazon-Electronics, on a graph without taste.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.graph.graph import Graph
from infodcl_geo.graph.item_item import ease_weights, item_weights, local_ease_graph, slim_graph
from infodcl_geo.models.item_term import ItemTerm
from infodcl_geo.models.scoring import UserRows
from infodcl_geo.training.loop import rank


def forms(data: Interactions) -> dict[str, Callable[[], Any]]:
    train = (data.train, data.num_users, data.num_items)
    found: dict[str, Callable[[], Any]] = {}
    for l2 in (100.0, 200.0):
        found[f"EASE, l2 {l2:g}"] = lambda l2=l2: ease_weights(*train, l2)
        for neighbours in (50, 100, 200, 500):
            name = f"local EASE, l2 {l2:g}, {neighbours} neighbours"
            found[name] = lambda l2=l2, k=neighbours: local_ease_graph(*train, l2, neighbours=k)
        name = f"local EASE, l2 {l2:g}, 200 neighbours, top 100"
        found[name] = lambda l2=l2: local_ease_graph(*train, l2, neighbours=200, top_k=100)
    for l1, l2 in ((0.1, 20.0), (0.1, 100.0), (1.0, 20.0), (1.0, 100.0)):
        found[f"SLIM, l1 {l1:g}, l2 {l2:g}"] = lambda l1=l1, l2=l2: slim_graph(*train, l1=l1, l2=l2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--generated", type=int, help="items of a generated graph, for the cost alone")
    arguments = parser.parse_args()
    if arguments.generated:
        data = power_law_graph(num_items=arguments.generated)
        train = (data.train, data.num_users, data.num_items)
        for neighbours in (100, 200, 500):
            start = time.process_time()
            graph = item_weights(*train, neighbours=neighbours)
            seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{neighbours} neighbours: {seconds:.1f} s of CPU, peak {peak:.2f} GiB, {graph}", flush=True)
        start = time.process_time()
        graph = slim_graph(*train)
        print(f"SLIM: {time.process_time() - start:.1f} s of CPU, {graph}")
        return
    small = power_law_graph(20, 20, 60)
    slim_graph(small.train, 20, 20)  # compiled before it is timed
    print("| data | weights | entries | NDCG@20 validation | CPU seconds |\n|---|---|---|---|---|")
    for folder in arguments.folders:
        data = load_interactions(folder)
        rows = UserRows(data.train, data.num_users, data.num_items)
        for name, make in forms(data).items():
            start = time.process_time()
            weights = make()
            seconds = time.process_time() - start
            ndcg = rank(data, ItemTerm(rows, weights).scores, "valid", ks=(20,)).mean()["ndcg@20"]
            entries = weights.num_edges if isinstance(weights, Graph) else weights.numel()
            print(f"| {data.name} | {name} | {entries:,} | {ndcg:.4f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
