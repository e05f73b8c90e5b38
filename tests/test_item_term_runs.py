"""Runs with an item term: trained, chosen on validation, saved, loaded and served, and nothing changed without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from infodcl_geo.cli import main
from infodcl_geo.configuration import configure
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.data.options import DataOptions
from infodcl_geo.errors import CheckpointError, OptionError
from infodcl_geo.experiment import fit, prepare, run
from infodcl_geo.models.item_term import combined_scorer
from infodcl_geo.recommender import Recommender
from infodcl_geo.saved import read_model, write_model

QUICK = {"dim": 8, "epochs": 2, "eval_every": 1, "batch_size": 4096}


@pytest.fixture(scope="module")
def demo() -> Interactions:
    return DataOptions(data="demo").load()


def test_without_the_option_nothing_changes_and_the_term_trains_nothing(demo: Interactions) -> None:
    plain = run(demo, configure("mf", **QUICK), progress=False)
    termed = run(demo, configure("mf", **QUICK, item_term="slim"), progress=False)
    assert plain.item_term is None
    assert "item_term" not in plain.metrics()
    assert "item_term" not in plain.config.identity()["options"]
    for name, value in plain.model.state().items():
        assert torch.equal(value, termed.model.state()[name])
    users = torch.arange(5)
    own, every = termed.model.scorer(), slice(0, demo.num_items)
    assert torch.equal(own(users, every), plain.scorer(users, every))
    assert termed.item_term is not None
    weight = termed.config.options.item_term_weight  # type: ignore[attr-defined]
    expected = combined_scorer(own, termed.item_term, weight, demo.num_items)
    assert torch.equal(termed.scorer(users, every), expected(users, every))
    # The term is the better of all weights on validation, that of none among them.
    assert termed.result.validation["ndcg@20"] >= plain.result.validation["ndcg@20"]


def test_the_choice_is_written_down_and_runs_again(demo: Interactions) -> None:
    first = run(demo, configure("mf", **QUICK, item_term="auto"), progress=False)
    record = first.metrics()["item_term"]
    assert record["form"] in ("ease", "slim")
    assert record["weight"] == float(max(record["tried"][record["form"]], key=record["tried"][record["form"]].get))
    assert record["ndcg@20"] == pytest.approx(first.result.validation["ndcg@20"])  # all users judge here
    again = run(demo, first.config, progress=False)
    assert again.test == first.test
    assert again.config == first.config


def test_a_given_weight_is_taken(demo: Interactions) -> None:
    taken = fit(demo, configure("mf", **QUICK, item_term="slim", item_term_weight=0.7), progress=False)
    assert taken.chosen["item_term"]["weight"] == 0.7
    none = fit(demo, configure("mf", **QUICK, item_term="slim", item_term_weight=0), progress=False)
    assert none.item_term is None


@pytest.mark.parametrize("form", ["ease", "slim"])
def test_train_save_load_evaluate_gives_equal_numbers(demo: Interactions, tmp_path: Path, form: str) -> None:
    config = configure("mf", **QUICK, item_term=form, item_term_weight=0.5)
    trained = run(demo, config, progress=False)
    Recommender.from_run(trained, demo).save(tmp_path / "model")
    loaded = Recommender.load(tmp_path / "model")
    assert loaded.tables is None
    assert trained.embeddings is None
    for split, expected in (("test", trained.test), ("valid", trained.result.validation)):
        found, left_out = loaded.evaluate(demo, split)  # type: ignore[arg-type]
        assert left_out == 0
        assert found == pytest.approx(expected, abs=1e-12)
    # Of a user who was not trained the term knows as much as of one who was.
    row = int(demo.train[0, 0])
    history = demo.item_ids.decode(demo.train[1, demo.train[0] == row].numpy())
    answer = loaded.recommend_for([history], k=10)[0]
    assert len(set(answer.items) & set(loaded.recommend(demo.user_ids.decode([row]), k=10)[0].items)) >= 5
    assert not set(answer.items) & set(history)


def test_a_damaged_term_is_one_line(demo: Interactions, tmp_path: Path) -> None:
    config = configure("mf", **QUICK, item_term="slim", item_term_weight=0.5)
    Recommender.from_run(fit(demo, config, progress=False), demo).save(tmp_path)
    saved = read_model(tmp_path)
    columns = saved.state["item_term.columns"].clone()
    for name, value in (
        ("item_term.columns", columns.fill_(demo.num_items)),
        ("item_term.values", torch.zeros(2)),
        ("item_term.pointers", None),
    ):
        state = {k: v for k, v in saved.state.items() if k != name} | ({} if value is None else {name: value})
        # Writing looks at what reading looks at, so that neither keeps nor takes a term that cannot be.
        with pytest.raises(CheckpointError, match=r"item.term") as error:  # noqa: PT012
            write_model(tmp_path / "damaged", type(saved)(**{**vars(saved), "state": state}))
            Recommender.load(tmp_path / "damaged")
        assert "\n" not in str(error.value)


def test_what_the_term_cannot_do_is_refused_before_training(demo: Interactions) -> None:
    with pytest.raises(OptionError, match="without a term"):
        fit(demo, configure("mf", item_term_weight=0.5), progress=False)
    with pytest.raises(OptionError, match="item_term must be one of"):
        configure("mf", item_term="knn")
    with pytest.raises(OptionError, match="cannot be negative"):
        configure("mf", item_term="ease", item_term_weight=-1)


def test_the_ease_channel_goes_by_its_name(demo: Interactions) -> None:
    config = configure("infodcl", channels="user,ease", dim=8)
    assert [channel.name for channel in prepare(demo, config).channels] == ["user", "ease"]


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model=mf", "--item_term=slim", "--epochs=1", "--eval_every=1", "--dim=8", "--progress=false"]
    assert main(["train", *words, f"--out={tmp_path / 'run'}"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["item_term"]["form"] == "slim"
    assert metrics["config"]["options"]["item_term_weight"] == metrics["item_term"]["weight"]
    capsys.readouterr()
