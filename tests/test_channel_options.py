"""Channels that options ask for: what is refused, and whose rows the files' are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infodcl_geo.channels.build import ChannelOptions, channel_builders
from infodcl_geo.channels.modal import ItemFeatures, Modal
from infodcl_geo.data.generated import demo
from infodcl_geo.errors import OptionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": "user,friends"}, "channels are item, user, .*, not 'friends'"),
        ({"channels": "social"}, "the social channel needs a file: give social"),
        ({"features": "x.npy"}, "features is given, but channels=user has no 'modal'"),
        ({"feature_ids": "ids.txt"}, "feature_ids is given, but channels=user has no 'modal'"),
        ({"links": "x.link"}, "links is given, but channels=user has no 'knowledge'"),
        ({"channels": "modal", "features": " , "}, "features names no file"),
        ({"channels": "modal", "features": "a,b,c", "feature_ids": "a,b"}, "feature_ids names 2 files for 3"),
        ({"similar_items": 0}, "similar_items must be at least 1, not 0"),
        ({"knowledge_method": "guess"}, "knowledge_method must be one of shared, propagate, kge, not 'guess'"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        ChannelOptions(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ids", "expected"), [(None, (None, None)), ("i", ("i", "i")), ("i, j", ("i", "j"))])
def test_files_of_features_have_files_of_ids(ids: str | None, expected: tuple[str | None, ...]) -> None:
    chosen = ChannelOptions("modal", features="a.npy, b.npy", feature_ids=ids)
    assert chosen.feature_files == list(zip(("a.npy", "b.npy"), expected, strict=True))


def test_options_give_the_ids_of_the_rows(tmp_path: Path) -> None:
    data = demo(num_users=60, num_items=50, num_interests=4, mean_interactions=10).interactions
    order = np.random.default_rng(0).permutation(data.num_items)
    matrix = np.random.default_rng(1).random((data.num_items, 6))
    np.save(tmp_path / "f.npy", matrix[order])
    (tmp_path / "ids.txt").write_text("\n".join(str(i) for i in data.item_ids.raw[order]))
    options = ChannelOptions("modal", features=str(tmp_path / "f.npy"), feature_ids=str(tmp_path / "ids.txt"))
    (builder,) = channel_builders(options, data)
    assert isinstance(builder, Modal)
    assert isinstance(builder.features, ItemFeatures)
    torch.testing.assert_close(builder.features.values, torch.from_numpy(matrix).float())
