"""Items that came after training get the mean of the trained items with the most similar features."""

from __future__ import annotations

import pytest
import torch

from infodcl_geo.data.ids import IdMap
from infodcl_geo.errors import OptionError
from infodcl_geo.new_items import with_new_items
from infodcl_geo.recommender import Recommender

ITEMS = ["apple", "cherry", "drill", "hammer", "unused"]
FEATURES = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [1.0, 0.0]])
VECTORS = torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 4.0], [0.0, 2.0], [9.0, 9.0]])


def recommender() -> Recommender:
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    train = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]])
    return Recommender({"users": users, "items": VECTORS}, IdMap(["u", "v"]), IdMap(ITEMS), train, train[:, :0])


def test_by_hand() -> None:
    """A fruit whose id sorts between the others, and a tool: each is the mean of its two like."""
    new = with_new_items(
        recommender(), ["banana", "zaw"], FEATURES, torch.tensor([[0.95, 0.05], [0.05, 0.95]]), similar=2
    )
    assert new.item_ids.raw.tolist() == ["apple", "banana", "cherry", "drill", "hammer", "unused", "zaw"]
    row = dict(zip(new.item_ids.raw.tolist(), new.state["items"].tolist(), strict=True))
    assert row["banana"] == [3.0, 0.0]
    assert row["zaw"] == [0.0, 3.0]
    assert [row[name] for name in ITEMS] == VECTORS.tolist()
    # What was seen stays seen, and the new ones are recommended to whom they suit.
    answers = new.recommend(["u", "v"], 2)
    assert [a.items.tolist() for a in answers] == [["unused", "banana"], ["unused", "zaw"]]
    assert [a.items.tolist() for a in new.recommend(["u"], 1, excluded=["unused"])] == [["banana"]]


def test_the_first_recommender_stays_as_it_is() -> None:
    first = recommender()
    before = first.recommend(["u"], 3)[0].items.tolist()
    with_new_items(first, ["banana"], FEATURES, torch.ones(1, 2))
    assert first.recommend(["u"], 3)[0].items.tolist() == before


def test_what_cannot_be_is_refused() -> None:
    one = torch.ones(1, 2)
    for ids, features, new, words in (
        (["apple"], FEATURES, one, "that of another"),
        (["x", "x"], FEATURES, torch.ones(2, 2), "that of another"),
        (["x"], FEATURES[:3], one, "features must be"),
        (["x"], FEATURES, torch.ones(1, 3), "features must be"),
        (["x"], FEATURES, one * torch.nan, "finite"),
    ):
        with pytest.raises(OptionError, match=words):
            with_new_items(recommender(), ids, features, new)
    with pytest.raises(OptionError, match="similar"):
        with_new_items(recommender(), ["x"], FEATURES, one, similar=0)
    weights = {"item_weights": torch.eye(5)}
    model = Recommender(weights, IdMap(["u", "v"]), IdMap(ITEMS), recommender().train, recommender().valid)
    with pytest.raises(OptionError, match="embeddings"):
        with_new_items(model, ["x"], FEATURES, one)
