"""``--preset auto``: what is tried, at what cost, and that validation alone chooses."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infodcl_geo import preset
from infodcl_geo.cli import main
from infodcl_geo.configuration import Config, configure
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.data.options import DataOptions
from infodcl_geo.errors import OptionError
from infodcl_geo.experiment import fit
from infodcl_geo.preset import fit_preset, objectives_of, rungs, search_epochs, sizes_of


@pytest.fixture(scope="module")
def demo() -> Interactions:
    return DataOptions(data="demo").load()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preset, "DIMS", (4, 8))


@given(st.integers(1, 60), st.integers(1, 400))
def test_rungs_halve_within_the_budget(count: int, epochs: int) -> None:
    found = rungs(count, epochs)
    assert sum(n * each for n, each in found) <= epochs
    assert all(each >= 1 for _, each in found)
    for (more, short), (fewer, long) in itertools.pairwise(found):
        assert fewer < more
        assert short <= long
    if epochs >= count * 4 and count > 1:
        assert found[0][0] == count  # all are tried


def test_candidates_by_hand() -> None:
    assert sizes_of(configure("mf", dim=4)) == [{}, {"dim": 8}]
    assert objectives_of(configure("mf", dim=4)) == [{}]
    found = objectives_of(configure("infodcl", dim=4))
    assert found[0] == {}
    assert len(found) == 2 * 3
    assert {"contrast": 0.3, "reconstruction": 0.05, "channels": "user,ease"} in found
    # Channels that somebody made files for are not replaced.
    own = objectives_of(configure("infodcl", dim=4, channels="social", social="friends.tsv"))
    assert all("channels" not in changes for changes in own)


def test_the_cost_is_counted_and_the_choice_is_the_best_that_lasted(
    demo: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []

    def counted(data: Interactions, config: Config, **how: Any) -> Any:
        found = fit(data, config, **how)
        epochs.append(len(found.result.epoch_seconds))
        return found

    monkeypatch.setattr(preset, "fit", counted)
    config = configure("infodcl", dim=4, epochs=8, patience=12, eval_every=2, batch_size=4096, item_term="ease")
    found = fit_preset(demo, config, ks=(20,), progress=False)
    record = found.chosen["preset"]
    assert sum(epochs[:-1]) == record["search_epochs"] <= search_epochs(config.training) == 16
    assert sum(epochs) <= 3 * 8
    last = max((one for one in record["tried"]), key=lambda one: len(one["ndcg@20"]))
    longest = [one for one in record["tried"] if len(one["ndcg@20"]) == len(last["ndcg@20"])]
    final = list(last["ndcg@20"])[-1]
    best = max(longest, key=lambda one: one["ndcg@20"][final])
    assert record["chosen"] == best["changes"]
    for name, value in record["chosen"].items():
        assert getattr(found.config.options, name) == value
    assert found.config.training == config.training
    assert found.metrics()["item_term"]["form"] == "ease"


def test_the_test_split_is_not_read_and_the_choice_is_the_same_again(demo: Interactions) -> None:
    config = configure("mf", dim=4, epochs=2, patience=4, eval_every=2, batch_size=4096, item_term="ease")
    first = fit_preset(demo, config, progress=False)
    hidden = replace(demo, test=demo.test[:, :0])
    again = fit_preset(hidden, config, progress=False)
    assert first.config == again.config
    assert first.result.validation == again.result.validation
    assert [one["ndcg@20"] for one in first.chosen["preset"]["tried"]] == [
        one["ndcg@20"] for one in again.chosen["preset"]["tried"]
    ]


def test_what_has_nothing_to_choose_is_refused(demo: Interactions) -> None:
    with pytest.raises(OptionError, match="ease has nothing for preset auto"):
        fit_preset(demo, configure("ease"))
    with pytest.raises(OptionError, match="validation split"):
        fit_preset(replace(demo, valid=torch.empty(2, 0, dtype=torch.int64)), configure("mf"))


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--epochs=2", "--eval_every=1", "--dim=4", "--item_term=ease", "--progress=false"]
    out = tmp_path / "run"
    assert main(["train", "--model=mf", "--preset=auto", *words, f"--out={out}"]) == 0
    content = json.loads((out / "metrics.json").read_text())
    assert content["preset"]["search_epochs"] <= 4
    assert content["config"]["options"]["dim"] in (4, 8)
    table = tmp_path / "table.csv"
    for extra in ([], ["--preset=auto"]):
        assert main(["compare", "--models", "mf", *words, f"--out={table}", *extra]) == 0
    assert len(table.read_text().splitlines()) == 1 + 2  # a run with the preset is another than one without
    capsys.readouterr()
