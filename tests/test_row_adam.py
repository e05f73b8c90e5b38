"""Plain steps in one operation are the same Adam, and training with them goes on where it was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infodcl_geo.configuration import configure
from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.errors import OptionError
from infodcl_geo.experiment import prepare
from infodcl_geo.models.base import EmbeddingModel
from infodcl_geo.training import loop
from infodcl_geo.training.callbacks import Callback
from infodcl_geo.training.loop import make_optimizer, train
from infodcl_geo.training.options import CheckpointOptions, TrainOptions
from infodcl_geo.training.row_adam import RowAdam
from infodcl_geo.training.state import TrainState

DATA = power_law_graph(70, 60, 900)
METADATA = {"given": torch.randn(60, 8, generator=torch.Generator().manual_seed(0))}


def built(model: str) -> EmbeddingModel:
    more = {"anchor_batch": 20} if model == "infodcl" else {}
    config = configure(model, "normal", dim=8, num_layers=1, l2=0.01, init_std=0.05, **more)
    found = prepare(DATA, config, channels=METADATA).model
    assert isinstance(found, EmbeddingModel)
    return found


def options(adam: str, **more: int) -> TrainOptions:
    return TrainOptions(**{"epochs": 4, "batch_size": 64, "eval_every": 1, "lr": 0.01, "adam": adam, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["mf", "infodcl"])
def test_fused_steps_are_adam(model: str) -> None:
    found = []
    for adam in ("dense", "fused"):
        trained = built(model).double()
        result = train(trained, DATA, options(adam), progress=False)
        found.append((trained.user_embedding.weight, trained.item_embedding.weight, result.history))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)
    for dense, fused in zip(found[0][2], found[1][2], strict=True):
        assert {"bpr", "reg"} <= fused.keys() == dense.keys()
        for name in fused.keys() - {"seconds"}:
            assert fused[name] == pytest.approx(dense[name], rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("model", ["mf", "infodcl"])
@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_run_ends_with_the_same_bits(
    model: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_WINDOW", 3)
    whole = built(model)
    train(whole, DATA, options("fused"), progress=False)

    class Stop(Callback):
        def __init__(self) -> None:
            self.count = 0

        def on_step(self, state: TrainState) -> None:
            self.count += 1
            if self.count == 4 * at:
                raise KeyboardInterrupt

    first = built(model)
    where = CheckpointOptions(tmp_path, every_minutes=None, every_epochs=1)
    train(first, DATA, options("fused"), progress=False, callbacks=[Stop()], checkpoint=where)
    again = built(model)
    if any(tmp_path.glob("checkpoint-*")):
        train(again, DATA, options("fused"), progress=False, resume=tmp_path)
        assert torch.equal(again.user_embedding.weight, whole.user_embedding.weight)
        assert torch.equal(again.item_embedding.weight, whole.item_embedding.weight)


def test_what_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(loop, "FUSED_ROWS", 130)
    assert isinstance(make_optimizer(built("mf"), 0.01, adam="auto"), RowAdam)
    assert isinstance(make_optimizer(built("infodcl"), 0.01, adam="auto"), RowAdam)
    assert not isinstance(make_optimizer(built("lightgcn"), 0.01, adam="auto"), RowAdam)
    assert not isinstance(make_optimizer(built("mf"), 0.01, adam="dense"), RowAdam)
    with pytest.raises(OptionError, match="no step of LightGCN is BPR"):
        make_optimizer(built("lightgcn"), 0.01, adam="fused")
    monkeypatch.setattr(loop, "LAZY_ROWS", 130)
    assert isinstance(make_optimizer(built("mf"), 0.01, adam="auto"), RowAdam)
    assert not isinstance(make_optimizer(built("infodcl"), 0.01, adam="auto"), RowAdam)
