"""Makes the checkpoints of older formats that every later version must read: ``python tests/data/make_checkpoints.py``.

The model is one of six users and five items with embeddings of small whole numbers, so that lists can be told by hand.
``checkpoint_v2`` is as version 0.2 wrote it: two plain files, ids as JSON, no hash. ``checkpoint_v3`` has
hashes, and the ids among the tensors.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent

USERS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, 3.0], [-1.0, 0.0]])
ITEMS = torch.tensor([[4.0, 0.0], [3.0, 1.0], [2.0, 5.0], [1.0, 2.0], [0.0, 1.0]])
TRAIN = torch.tensor([[0, 1, 1, 2, 3, 4, 4], [0, 2, 3, 0, 1, 2, 4]])
VALID = torch.tensor([[0, 2, 3], [1, 1, 0]])
USER_IDS = ["ann", "bob", "cat", "dan", "eve", "fay"]
CONFIG = {
    "data": {"data": "ratings.csv", "split": "temporal", "valid_share": 0.1, "test_share": 0.2, "split_seed": 0},
    "model": "mf",
    "options": {"dim": 2},
    "training": {"seed": 3},
}


def format_2(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    tensors = {"state.users": USERS, "state.items": ITEMS, "train": TRAIN, "valid": VALID}
    save_file(tensors, folder / "model.safetensors")
    content = {
        "format": 2,
        "config": CONFIG,
        "restores": False,
        "user_ids": {"kind": "strings", "ids": USER_IDS},
        "item_ids": {"kind": "range", "start": 10, "stop": 15},
    }
    (folder / "model.json").write_text(json.dumps(content), encoding="utf-8")


def format_3(folder: Path) -> None:
    """As the library writes now: make it again only to begin a new format, under that format's name."""
    from infodcl_geo.data.ids import IdMap
    from infodcl_geo.recommender import Recommender

    train, valid = torch.tensor([[0, 1, 1], [0, 0, 3]]), torch.tensor([[0], [3]])
    ids = IdMap(["ann", "bob"]), IdMap([10, 20, 30, 40])
    state = {"users": USERS[:2], "items": ITEMS[:4]}
    Recommender(state, *ids, train, valid, {"model": "mf", "options": {"dim": 2}}).save(folder)
    (folder / ".lock").unlink()


if __name__ == "__main__":
    format_2(HERE / "checkpoint_v2")
    format_3(HERE / "checkpoint_v3")
