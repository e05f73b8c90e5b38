"""Comparison of models: what is run again, what is kept, the tests, and the command that shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_ease import blocks

from infodcl_geo.cli import main
from infodcl_geo.comparison import Entry, Planned, TableFile, compare, describe, summary
from infodcl_geo.configuration import Config, configure
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.evaluation.ranking import Ranking
from infodcl_geo.evaluation.significance import best_baseline, differences, holm, paired_test
from infodcl_geo.models import RECIPES, Fitted, find_recipe
from infodcl_geo.models.scoring import dot_scorer
from infodcl_geo.outcome import Run
from infodcl_geo.pretraining import best_num_layers, spectral_vectors
from infodcl_geo.settings import read_settings, read_variants
from infodcl_geo.training.state import TrainResult
from infodcl_geo.tuning import Budget, Search, searched

METRICS = ["recall@20", "ndcg@20"]


class Executor:
    """Stands for training: numbers from the seed and the learning rate, and a list of what was run."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []

    def __call__(self, config: Config) -> Run:
        name, seed = config.name, config.training.seed
        self.done.append((name, seed))
        generator = torch.Generator().manual_seed(1000 * seed + len(name))
        users = {metric: torch.rand(12, generator=generator, dtype=torch.float64) for metric in METRICS}
        empty = torch.empty(0, dtype=torch.int64)
        ranking = Ranking(torch.arange(12), users, (20,), torch.stack([empty, empty]), empty)
        result = TrainResult(5, {"ndcg@20": 0.1 + seed / 100}, [0.5] * 7)
        scorer = dot_scorer(torch.zeros(1, 1), torch.zeros(1, 1))
        return Run(config, Fitted({}, scorer), scorer, result, ranking.mean(), {"channels": 1.5}, ranking=ranking)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return blocks()


def plan(*models: str, seeds: tuple[int, ...] = (0, 1), **training: Any) -> list[Config]:
    return [configure(model, seed=seed, **training) for model in models for seed in seeds]  # type: ignore[arg-type]


def test_nothing_is_run_twice(data: Interactions, tmp_path: Path) -> None:
    execute, said = Executor(), []
    table = TableFile(tmp_path / "new" / "table.csv")
    options: dict[str, Any] = {"metrics": METRICS, "ks": (20,), "table": table, "say": said.append}
    first = compare(data, plan("mf"), execute, **options)
    assert (execute.done, said) == ([("mf", 0), ("mf", 1)], [])
    second = compare(data, plan("lightgcn", "mf", seeds=(1, 0)), execute, **options)
    assert execute.done[2:] == [("lightgcn", 1), ("lightgcn", 0)]
    assert "2 of 4 runs were already in" in said[0]
    # What comes from the file is what came from the run, to the last bit.
    for old, new in ((first[0], second[3]), (first[1], second[2])):
        assert old.row == new.row
        assert old.per_user.keys() == new.per_user.keys()
        assert all(np.array_equal(old.per_user[name], new.per_user[name]) for name in METRICS)
    assert pd.read_csv(table.path)["model"].tolist() == ["mf", "mf", "lightgcn", "lightgcn"]


def test_an_interrupted_comparison_goes_on(data: Interactions, tmp_path: Path) -> None:
    execute, table = Executor(), TableFile(tmp_path / "table.csv")

    def stops(config: Config) -> Run:
        if len(execute.done) == 2:
            raise KeyboardInterrupt
        return execute(config)

    with pytest.raises(KeyboardInterrupt):
        compare(data, plan("mf", "sgl"), stops, metrics=METRICS, table=table)
    compare(data, plan("mf", "sgl"), execute, metrics=METRICS, table=table, say=lambda text: None)
    assert execute.done == [("mf", 0), ("mf", 1), ("sgl", 0), ("sgl", 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.csv.lock", "table.npz"]


def changed_data(data: Interactions) -> Interactions:
    return replace(data, test=data.test[:, 1:])


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda d, c: (d, c.changed(lr=0.1)), True),
        (lambda d, c: (d, c.changed(num_layers=3)), True),
        (lambda d, c: (d, c.changed(smoothing=0.3)), False),  # no business of a random start
        (lambda d, c: (changed_data(d), c), True),
        (lambda d, c: (replace(d, name="other folder"), c), False),
    ],
)
def test_changed_settings_are_run_again(
    data: Interactions,
    tmp_path: Path,
    change: Callable[[Interactions, Config], tuple[Interactions, Config]],
    again: bool,
) -> None:
    execute, said = Executor(), []
    options: dict[str, Any] = {"metrics": METRICS, "table": TableFile(tmp_path / "t.csv"), "say": said.append}
    (config,) = plan("mf", seeds=(0,))
    compare(data, [config], execute, **options)
    other, changed = change(data, config)
    compare(other, [changed], execute, **options)
    assert len(execute.done) == 1 + again
    if again:
        assert "also holds 1 runs of these models and seeds with other settings" in said[-1]
        assert len(pd.read_csv(tmp_path / "t.csv")) == 2


def test_closed_forms_are_the_same_for_every_seed_and_training(data: Interactions) -> None:
    texts = {describe(data, configure("ease", seed=seed, lr=lr), (20,), False) for seed in (0, 1) for lr in (1, 2)}
    assert len(texts) == 1
    assert json.loads(texts.pop())["options"] == {"l2": 200.0}
    assert describe(data, configure("ease"), (20,), True) != describe(data, configure("ease"), (20,), False)


def test_pretraining_counts_where_it_is_used(data: Interactions) -> None:
    def keys(config: Config) -> int:
        return len({describe(data, config.changed(smoothing=smoothing), (20,), False) for smoothing in (0.5, 1)})

    assert keys(configure("mf")) == 1
    assert keys(configure("mf", "pretrained")) == 2
    assert keys(configure("simdiff")) == keys(configure("svd")) == 2
    deeper, default = configure("svd", num_layers=3), configure("svd")
    assert describe(data, deeper, (20,), False) != describe(data, default, (20,), False)


def test_a_row_without_its_users_counts_as_not_run(data: Interactions, tmp_path: Path) -> None:
    execute, table = Executor(), TableFile(tmp_path / "t.csv")
    for _ in range(2):
        compare(data, plan("mf", seeds=(0,)), execute, metrics=METRICS, table=table)
        table.arrays.unlink()
    assert len(execute.done) == 2
    assert len(table.rows()) == 1


def test_rows_of_older_files_are_kept(data: Interactions, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("data,model,seed,test ndcg@20\nblocks,mf,0,0.5\n")
    compare(data, plan("mf", seeds=(0,)), Executor(), metrics=METRICS, table=TableFile(path), say=lambda text: None)
    assert pd.read_csv(path)["test ndcg@20"][0] == 0.5
    assert len(pd.read_csv(path)) == 2


@pytest.mark.parametrize("content", ["user,item\n1,2\n", ""])
def test_other_files_are_not_touched(content: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"t\.csv: .*no table of runs"):
        TableFile(path).rows()
    assert path.read_text() == content


def entry(model: str, seed: int, users: list[float], valid: float | None = None, seconds: float = 0.0) -> Entry:
    row = {"model": model, "seed": seed, "seconds_per_epoch": seconds, "test ndcg@20": float(np.mean(users))}
    if valid is not None:
        row["valid ndcg@20"] = valid
    return Entry(row, {"ndcg@20": np.array(users)}, model, find_recipe(model).studied)


def test_the_best_baseline_is_chosen_on_validation_alone() -> None:
    entries = [
        entry("infodcl", 0, [0.9], valid=0.9),
        entry("simdiff", 0, [0.9], valid=0.9),
        entry("diffcl", 0, [0.9], valid=0.9),
        entry("mf", 0, [0.8], valid=0.1),
        entry("mf", 1, [0.8], valid=0.4),
        entry("sgl", 0, [0.2], valid=0.3),
    ]
    assert best_baseline(entries, "ndcg@20") == "sgl"
    assert best_baseline(entries[:3], "ndcg@20") is None
    assert best_baseline([entry("mf", 0, [0.5])], "ndcg@20") is None


def test_differences_are_means_over_seeds_paired_by_user() -> None:
    entries = [
        entry("mf", 0, [0.1, 0.2, 0.3, 0.4]),
        entry("mf", 1, [0.3, 0.2, 0.1, 0.4]),
        entry("infodcl", 0, [0.5, 0.2, 0.2, 0.9]),
        entry("sgl", 0, [0.2, 0.2, 0.2, 0.4]),
    ]
    found = differences(entries, "ndcg@20", "mf")
    assert list(found) == ["infodcl", "sgl"]
    assert found["infodcl"].mean == pytest.approx((0.3 + 0 + 0 + 0.5) / 4)
    # Twice the p-value of scipy's own paired test, as the smaller one of two.
    p = stats.ttest_rel([0.5, 0.2, 0.2, 0.9], [0.2, 0.2, 0.2, 0.4]).pvalue
    assert found["infodcl"].p_value == pytest.approx(min(1, 2 * p))
    assert found["sgl"].p_value == 1.0


def test_paired_tests_by_hand() -> None:
    # t = 2 / (sqrt(2/3 ...)): mean 2, standard deviation 1, n = 3: t = 2 sqrt 3 with two degrees of freedom.
    t = 2 * 3**0.5
    assert paired_test(np.array([1.0, 2.0, 3.0])) == pytest.approx(1 - t / (2 + t * t) ** 0.5)
    # All five of one sign: 2 / 2^5.
    assert paired_test(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), "wilcoxon") == pytest.approx(2 / 32)
    assert paired_test(np.zeros(5)) == paired_test(np.zeros(5), "wilcoxon") == paired_test(np.ones(1)) == 1.0
    assert paired_test(np.full(4, 0.5)) == 0.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.8]) == [1.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected, order = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        for place, index in enumerate(order):
            if p_values[index] * (len(p_values) - place) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


def test_the_table() -> None:
    entries = [
        entry("mf", 0, [0.1, 0.3], valid=0.2, seconds=1.0),
        entry("mf", 1, [0.2, 0.4], valid=0.2, seconds=3.0),
        entry("ease", 0, [0.5, 0.6], valid=0.1),
    ]
    headers, rows = summary(entries, ["ndcg@20"])
    assert headers == ["model", "test ndcg@20", "s/epoch"]
    assert rows == [["mf", "0.2500 ± 0.0707", "2.000"], ["ease", "0.5500", "-"]]
    headers, rows = summary(entries, ["ndcg@20"], significance=True)
    assert headers[3:] == ["ndcg@20 - mf"]
    assert rows[0][3] == ""
    assert rows[1][3].startswith("+0.3000, p = ")


def test_settings_files(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("mf: {lr: 1.0e-3, num_layers: 2}\ninfodcl:\n  channels: item\n  contrast: 0.5\n")
    expected = {"mf": {"lr": 1e-3, "num_layers": 2}, "infodcl": {"channels": "item", "contrast": 0.5}}
    assert read_settings(path) == expected
    path.write_text(json.dumps(expected))
    assert read_settings(path) == expected
    for content, message in (
        ("[1]", "holds no names"),
        ("mf: 3", "mf must be followed"),
        ("ms: {lr: 1}", "no model 'ms'"),
        ("{", "neither"),
        ("a: &a {lr: 1}\nmf: *a", "aliases"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_settings(path)
        assert "\n" not in str(caught.value)
        assert "settings.yaml" in str(caught.value)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ratings.csv"
    lines = [f"user{u},{i}" for u in range(30) for i in range(60) if i % 3 == u % 3 and (u + i) % 5]
    path.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    return path


def test_the_command_line(ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen, out = tmp_path / "settings.yaml", tmp_path / "table.csv"
    chosen.write_text("mf: {lr: 1e-3, num_layers: 3, epochs: 1}\nease: {l2: 20}\n")
    words = ["compare", "--data", str(ratings), "--settings", str(chosen), "--out", str(out)]
    words += ["--epochs", "2", "--dim", "8", "--progress", "false"]
    assert main([*words, "--models", "ease,mf"]) == 0
    printed = capsys.readouterr().out
    assert "| model" in printed
    assert "p =" not in printed
    table = pd.read_csv(out)
    assert table["model"].tolist() == ["ease", "mf"]
    assert json.loads(table["settings"][0])["options"]["l2"] == 20
    mf = json.loads(table["settings"][1])
    # The file over the defaults, the command line over the file.
    assert (mf["training"]["lr"], mf["options"]["num_layers"], mf["training"]["epochs"]) == (1e-3, 3, 2)

    assert main([*words, "--models", "[popularity,ease,mf]", "--seeds", "0", "1"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 4 runs were already in" in printed
    assert "ndcg@20 - " in printed
    assert pd.read_csv(out)["model"].tolist() == ["ease", "mf", "popularity", "mf"]
    assert main([*words, "--models", "ease", "mf", "--significance", "--test", "wilcoxon"]) == 0
    assert "ndcg@20 - " in capsys.readouterr().out

    for wrong, message in (("mf: {num_layer: 3}", "did you mean --num_layers"), ("mf: {num_layers: many}", "takes")):
        chosen.write_text(wrong)
        with pytest.raises(SystemExit):
            main([*words, "--models", "mf"])
        assert message in capsys.readouterr().err


def test_variants_of_one_model_have_labels(ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "variants.yaml", tmp_path / "table.csv"
    file.write_text("shallow: {model: mf, num_layers: 1}\ndeep: {model: mf, num_layers: 3}\n")
    assert read_variants(file) == {"shallow": ("mf", {"num_layers": 1}), "deep": ("mf", {"num_layers": 3})}
    words = ["compare", "--data", str(ratings), "--variants", str(file), "--seeds", "0,1", "--out", str(out)]
    words += ["--epochs", "1", "--dim", "8", "--progress", "false"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| shallow" in printed
    assert "ndcg@20 - " in printed
    table = pd.read_csv(out)
    assert table["label"].tolist() == ["shallow", "shallow", "deep", "deep"]
    assert {json.loads(text)["options"]["num_layers"] for text in table["settings"][2:]} == {3}
    file.write_text("shallow: {num_layers: 1}\n")
    assert main(words) == 1
    assert "must be followed by a model" in capsys.readouterr().err


def test_a_model_that_fails_is_named_and_the_others_go_on(
    ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "variants.yaml"
    file.write_text("broken: {model: mf, lr: 1.0e+30}\nsound: {model: mf}\n")
    words = ["compare", "--data", str(ratings), "--variants", str(file), "--epochs", "2", "--dim", "8"]
    assert main([*words, "--progress", "false"]) == 1
    printed = capsys.readouterr().out
    assert "broken, seed 0, failed" in printed
    assert "| broken  | failed" in printed
    assert "| sound   | 0." in printed


def test_what_is_labelled_alike_is_one_variant(data: Interactions) -> None:
    execute = Executor()
    plans = [Planned(config, "mine") for config in plan("mf")]
    entries = compare(data, plans, execute, metrics=METRICS)
    assert [entry.label for entry in entries] == ["mine", "mine"]
    assert [row[0] for row in summary(entries, METRICS)[1]] == ["mine"]


@pytest.mark.parametrize("damage", ["cut", "short row", "arrays", "nul"])
def test_a_damaged_table_is_one_line(damage: str, data: Interactions, tmp_path: Path) -> None:
    table = TableFile(tmp_path / "t.csv")
    options: dict[str, Any] = {"metrics": METRICS, "table": table}
    compare(data, plan("mf", seeds=(0,)), Executor(), **options)
    text = table.path.read_bytes()
    if damage == "cut":
        table.path.write_bytes(text[: len(text) - 40])
    elif damage == "short row":
        table.path.write_bytes(text + b"blocks,mf\n")
    elif damage == "nul":
        table.path.write_bytes(text.replace(b"mf", b"m\0"))
    else:
        table.arrays.write_bytes(table.arrays.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"t\.(csv|npz)") as caught:
        compare(data, plan("mf", seeds=(0,)), Executor(), **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="give another ending"):
        TableFile(tmp_path / "x.npz")


TUNED = [recipe.name for recipe in RECIPES if recipe.search is not None]


@pytest.mark.parametrize("model", TUNED)
def test_every_model_can_be_tuned(model: str, data: Interactions) -> None:
    pytest.importorskip("optuna")
    search = Search(data)
    fixed = ["lr"] if "lr" in searched(find_recipe(model)) else []

    def make(options: Any) -> Config:
        return configure(model, **{"epochs": 3, **({"lr": 0.5} if fixed else {}), **options})

    starts = search.starts(make, fixed, None)
    names = set(searched(find_recipe(model))) - set(fixed)
    for start in starts:
        # An option whose default is no number is left to the search.
        assert all(make({}).flat()[name] is None for name in names - set(start))
        assert set(start) <= names
        assert make(start).training.lr == (0.5 if fixed else make({}).training.lr)
    inits = [start["init"] for start in starts if "init" in start]
    assert sorted(inits) in ([], ["normal", "pretrained"])
    chosen, default = make(starts[0]), make({})
    if getattr(default.options, "num_layers", 0) is None:  # then the first trial has what a run would choose
        options, vectors = spectral_vectors(data, default.options)
        default = replace(default, options=replace(options, num_layers=best_num_layers(data, vectors)))
        if "smoothing" not in names:
            default = default.changed(smoothing=None)
    assert chosen == default


def test_a_search_begins_with_the_defaults_of_each_start(data: Interactions) -> None:
    pytest.importorskip("optuna")

    def trials(fixed: dict[str, Any]) -> list[dict[str, Any]]:
        said: list[str] = []

        def make(options: Any) -> Config:
            return configure("mf", **{"epochs": 1, "dim": 8, **fixed, **options})

        study = Search(data).run(make, Budget(1), fixed=list(fixed), say=said.append)
        assert len(said) == (len(study.trials) > 1)  # more than the budget, so that each start is finished
        return [trial.user_attrs["options"] for trial in study.trials]

    first, second = trials({})
    assert (first["init"], second["init"]) == ("normal", "pretrained")
    own, pretrained = configure("mf"), configure("mf", "pretrained")
    assert (first["lr"], second["lr"]) == (own.training.lr, pretrained.training.lr)
    assert second["init_std"] == pretrained.options.init_std  # type: ignore[attr-defined]
    assert second["num_layers"] in (1, 2, 3)  # chosen on validation
    (only,) = trials({"init": "pretrained"})
    assert only == {name: value for name, value in second.items() if name != "init"} | {"lr": only["lr"]}


def test_settings_that_were_searched_are_those_compared(ratings: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "new" / "settings.yaml"
    words = ["tune", "--data", str(ratings), "--out", str(out), "--epochs", "2", "--dim", "8"]
    journal = ["--journal", str(tmp_path / "journal")]
    assert main([*words, "--models", "ease", "mf", "--trials", "3", *journal]) == 0
    assert main([*words, "--models", "mf", "--trials", "4", *journal]) == 0
    begin = tmp_path / "begin.yaml"
    begin.write_text("gfcf: {components: 9}\n", encoding="utf-8")
    assert main([*words, "--models", "gfcf", "--minutes", "0.02", "--begin", str(begin)]) == 0
    trials = pd.read_csv(out.with_suffix(".csv"))
    assert trials["model"].value_counts()[["ease", "mf"]].to_dict() == {"ease": 3, "mf": 4}
    first = json.loads(trials[(trials["model"] == "gfcf") & (trials["trial"] == 0)]["options"].item())
    assert first == {"components": 9, "alpha": configure("gfcf").options.alpha}  # type: ignore[attr-defined]
    found = read_settings(out)
    assert set(found) == {"ease", "gfcf", "mf"}
    for model in found:
        mine = trials[(trials["model"] == model) & (trials["state"] == "complete")]
        best = (mine["valid ndcg@20"] + mine["valid recall@20"] / 2).idxmax()
        assert json.loads(mine["options"][best]) == found[model]
    csv = tmp_path / "table.csv"
    words = ["compare", "--data", str(ratings), "--settings", str(out), "--models", "ease,mf", "--out", str(csv)]
    assert main([*words, "--epochs", "2", "--dim", "8", "--progress", "false"]) == 0
    table = pd.read_csv(csv)
    for model, row in zip(("ease", "mf"), table.itertuples(), strict=True):
        assert row.model == model
        assert table["valid ndcg@20"][row.Index] == trials[trials["model"] == model]["valid ndcg@20"].max()
