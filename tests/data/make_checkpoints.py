"""Makes the checkpoints of older formats that every later version must read: ``python tests/data/make_checkpoints.py``.

The model is one of six users and five items with embeddings of small whole numbers, so that lists can be told by hand.
``checkpoint_v2`` is as version 0.2 of the library wrote it: two plain files, ids as JSON, no hash.
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


if __name__ == "__main__":
    format_2(HERE / "checkpoint_v2")
