"""PyG graphs that carry their split: what is held out, what is a negative, and what belongs to training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_geometric")

from torch_geometric.data import Data, HeteroData
from torch_geometric.transforms import RandomLinkSplit, ToUndirected

from infodcl_geo.data.interactions import InteractionError
from infodcl_geo.pyg import from_hetero_data

RATES = ("user", "rates", "item")


def graph() -> HeteroData:
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 30, 20
    chosen = torch.rand(30, 20, generator=torch.Generator().manual_seed(0)) < 0.35
    data[RATES].edge_index = chosen.nonzero().T.contiguous()
    return data


def pairs(edges: Tensor) -> set[tuple[int, int]]:
    return {(int(u), int(i)) for u, i in edges.T.tolist()}


@pytest.mark.parametrize("disjoint", [0.0, 0.3])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("negatives", [0.0, 1.0])
def test_three_graphs_of_a_link_split(disjoint: float, reverse: bool, negatives: float) -> None:
    whole = graph()
    split = RandomLinkSplit(
        num_val=0.1, num_test=0.2, disjoint_train_ratio=disjoint, neg_sampling_ratio=negatives, edge_types=[RATES],
        rev_edge_types=[("item", "rev_rates", "user")] if reverse else None,
    )  # fmt: skip
    graphs = split(ToUndirected()(whole.clone()) if reverse else whole.clone())
    data = from_hetero_data(graphs)

    def raw(part: Tensor) -> set[tuple[int, int]]:
        return pairs(torch.stack([torch.from_numpy(m.decode(r)) for m, r in zip(
            (data.user_ids, data.item_ids), part, strict=True)]))  # fmt: skip

    held_out = []
    for part, of_split in ((data.valid, graphs[1]), (data.test, graphs[2])):
        label = of_split[RATES].edge_label
        held_out.append(pairs(of_split[RATES].edge_label_index[:, label > 0]))
        assert raw(part) == held_out[-1]
    # All that is not held out is for training, whether messages pass over it or it supervises.
    assert raw(data.train) == pairs(whole[RATES].edge_index) - held_out[0] - held_out[1]


def test_one_graph_with_labels_holds_out_the_positive_ones() -> None:
    data = graph()
    free = (
        ~torch.zeros(30, 20, dtype=torch.bool).index_put_(tuple(data[RATES].edge_index), torch.tensor(True))
    ).nonzero()
    data[RATES].edge_label_index, data[RATES].edge_label = free[:6].T, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    found = from_hetero_data(data)
    assert found.test.size(1) == 3
    assert found.train.size(1) + found.valid.size(1) == data[RATES].edge_index.size(1)


@pytest.mark.parametrize("where", ["edge_index", "test_edge_index", "edge_label_index"])
def test_edges_the_wrong_way_are_refused(where: str) -> None:
    data: Any = graph()
    data[RATES][where] = data[RATES].edge_index.flip(0)
    with pytest.raises(InteractionError, match=r"node 29 of the 20 of type 'item'"):
        from_hetero_data(data)


def test_a_graph_of_one_kind_of_node_is_refused() -> None:
    with pytest.raises(InteractionError, match="give a HeteroData"):
        from_hetero_data(Data(edge_index=torch.tensor([[0, 1], [2, 3]])))  # type: ignore[arg-type]
