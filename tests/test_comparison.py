"""Comparison of models: what is run again, what is kept, the tests, and the command that shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
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
from infodcl_geo.comparison import STUDIED, Entry, TableFile, compare, describe, read_settings, summary
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.evaluation.ranking import Ranking
from infodcl_geo.evaluation.significance import best_baseline, differences, holm, paired_test
from infodcl_geo.experiment import Config, Run, best_num_layers, default_config, spectral_vectors
from infodcl_geo.graph.spectral import SVDOptions
from infodcl_geo.models import EASEOptions
from infodcl_geo.models.scoring import dot_scorer
from infodcl_geo.training.loop import TrainResult

METRICS = ["recall@20", "ndcg@20"]


class Executor:
    """Stands for training: numbers from the seed and the learning rate, and a list of what was run."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []

    def __call__(self, config: Config) -> Run:
        name, seed = config.model.model, config.training.seed
        self.done.append((name, seed))
        generator = torch.Generator().manual_seed(1000 * seed + len(name))
        users = {metric: torch.rand(12, generator=generator, dtype=torch.float64) for metric in METRICS}
        empty = torch.empty(0, dtype=torch.int64)
        ranking = Ranking(torch.arange(12), users, (20,), torch.stack([empty, empty]), empty)
        result = TrainResult(5, {"ndcg@20": 0.1 + seed / 100}, [0.5] * 7)
        scorer = dot_scorer(torch.zeros(1, 1), torch.zeros(1, 1))
        return Run(config, scorer, result, ranking.mean(), {"channels": 1.5}, ranking=ranking)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return blocks()


def plan(*models: str, seeds: tuple[int, ...] = (0, 1), **training: Any) -> list[Config]:
    return [default_config(model, seed=seed, **training) for model in models for seed in seeds]  # type: ignore[arg-type]


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.npz"]


def changed_data(data: Interactions) -> Interactions:
    return replace(data, test=data.test[:, 1:])


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda d, c: (d, replace(c, training=replace(c.training, lr=0.1))), True),
        (lambda d, c: (d, replace(c, model=replace(c.model, num_layers=3))), True),
        (lambda d, c: (d, replace(c, ease=EASEOptions(7.0))), False),  # no business of mf
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
    texts = {describe(data, default_config("ease", seed=seed, lr=lr), (20,), False) for seed in (0, 1) for lr in (1, 2)}
    assert len(texts) == 1
    assert json.loads(texts.pop())["ease"] == {"l2": 200.0}
    assert describe(data, default_config("ease"), (20,), True) != describe(data, default_config("ease"), (20,), False)


def test_pretraining_counts_where_it_is_used(data: Interactions) -> None:
    def keys(config: Config) -> int:
        return len({describe(data, replace(config, svd=SVDOptions(smoothing)), (20,), False) for smoothing in (0.5, 1)})

    random = default_config("mf")
    assert keys(random) == 1
    assert keys(replace(random, model=replace(random.model, init="pretrained"))) == 2
    assert keys(default_config("simdiff")) == keys(default_config("svd")) == 2
    deeper = default_config("svd")
    deeper = replace(deeper, model=replace(deeper.model, num_layers=3))
    assert describe(data, deeper, (20,), False) != describe(data, default_config("svd"), (20,), False)


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
    return Entry(row, {"ndcg@20": np.array(users)})


def test_the_best_baseline_is_chosen_on_validation_alone() -> None:
    entries = [
        entry("infodcl", 0, [0.9], valid=0.9),
        entry("simdiff", 0, [0.9], valid=0.9),
        entry("diffcl", 0, [0.9], valid=0.9),
        entry("mf", 0, [0.8], valid=0.1),
        entry("mf", 1, [0.8], valid=0.4),
        entry("sgl", 0, [0.2], valid=0.3),
    ]
    assert best_baseline(entries, "ndcg@20", STUDIED) == "sgl"
    assert best_baseline(entries[:3], "ndcg@20", STUDIED) is None
    assert best_baseline([entry("mf", 0, [0.5])], "ndcg@20", STUDIED) is None


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
    path.write_text("mf: {lr: 1.0e-3, num_layers: 2}\ninfodcl:\n  channels: item\n  infodcl: {contrast: 0.5}\n")
    expected = {"mf": {"lr": 1e-3, "num_layers": 2}, "infodcl": {"channels": "item", "infodcl.contrast": 0.5}}
    assert read_settings(path) == expected
    path.write_text(json.dumps(expected))
    assert read_settings(path) == expected
    for content, message in (("[1]", "must map models"), ("ms: {lr: 1}", "no model is called ms"), ("{", "neither")):
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
    chosen.write_text("mf: {lr: 1e-3, num_layers: 3, epochs: 1}\nease: {ease: {l2: 20}}\n")
    words = ["compare", "--data", str(ratings), "--settings", str(chosen), "--out", str(out)]
    words += ["--epochs", "2", "--dim", "8", "--progress", "false"]
    assert main([*words, "--models", "[ease,mf]"]) == 0
    printed = capsys.readouterr().out
    assert "| model" in printed
    assert "p =" not in printed
    table = pd.read_csv(out)
    assert table["model"].tolist() == ["ease", "mf"]
    assert json.loads(table["settings"][0])["ease"]["l2"] == 20
    mf = json.loads(table["settings"][1])
    # The file over the defaults, the command line over the file.
    assert (mf["training"]["lr"], mf["model"]["num_layers"], mf["training"]["epochs"]) == (1e-3, 3, 2)

    assert main([*words, "--models", "[popularity,ease,mf]", "--seeds", "[0,1]"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 4 runs were already in" in printed
    assert "ndcg@20 - " in printed
    assert pd.read_csv(out)["model"].tolist() == ["ease", "mf", "popularity", "mf"]
    assert main([*words, "--models", "[ease,mf]", "--significance", "true", "--test", "wilcoxon"]) == 0
    assert "ndcg@20 - " in capsys.readouterr().out

    for wrong, message in (("mf: {layers: 3}", "mf has no option layers"), ("mf: {seed: 3}", "mf has no option seed")):
        chosen.write_text(wrong)
        assert main([*words, "--models", "[mf]"]) == 1
        assert message in capsys.readouterr().err
    chosen.write_text("mf: {num_layers: many}")
    with pytest.raises(SystemExit):
        main([*words, "--models", "[mf]"])


@pytest.fixture(scope="module")
def tune(script: Callable[[str], ModuleType]) -> Any:
    pytest.importorskip("optuna")
    return script("tune")


def test_every_model_can_be_tuned(tune: Any, data: Interactions) -> None:
    import optuna

    search = tune.Search(data, ["--epochs", "3", "--lr=0.5"], torch.device("cpu"))
    for model in tune.MODELS:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial(search._defaults(model))
        first, *others = (search.options(study.ask(), model) for _ in range(3))
        assert "lr" not in first  # it is fixed
        default, config = default_config(model), search.config(model, first)
        assert config.training.lr == 0.5
        if default.model.num_layers is None:  # then the first trial has what a training run would choose
            chosen, vectors = spectral_vectors(data, default)
            default = default.changed(model={"num_layers": best_num_layers(data, vectors)})
            if model == "svd":
                default = chosen.changed(model={"num_layers": default.model.num_layers})
        assert replace(config, training=default.training) == default
        assert others[0] != others[1]
        for options in others:
            assert str(search.config(model, options)) not in (str(config), str(default))


def test_a_search_begins_with_the_defaults_of_the_start_that_is_fixed(tune: Any, data: Interactions) -> None:
    def first(*fixed: str) -> dict[str, Any]:
        search = tune.Search(data, ["--epochs=1", *fixed], torch.device("cpu"))
        return dict(search.run("mf", 1, None, None, 1).trials[0].user_attrs["options"])

    assert first() == first("--init=normal") | {"init": "normal"}
    pretrained = default_config("mf", "pretrained")
    found = first("--init", "pretrained")
    assert found["lr"] == pretrained.training.lr != default_config("mf").training.lr
    assert found["init_std"] == pretrained.model.init_std
    assert found["num_layers"] in (1, 2, 3)  # chosen on validation


def test_settings_that_were_searched_are_those_compared(tune: Any, ratings: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "settings.yaml"
    words = ["--data", str(ratings), "--out", str(out), "--epochs", "2", "--dim", "8"]
    tune.main([*words, "--models", "ease", "mf", "--trials", "3", "--journal", str(tmp_path / "journal")])
    tune.main([*words, "--models", "mf", "--trials", "4", "--journal", str(tmp_path / "journal")])
    begin = tmp_path / "begin.yaml"
    begin.write_text("gfcf: {gfcf.components: 9}\n", encoding="utf-8")
    tune.main([*words, "--models", "gfcf", "--minutes", "0.02", "--begin", str(begin)])
    trials = pd.read_csv(out.with_suffix(".csv"))
    assert trials["model"].value_counts()[["ease", "mf"]].to_dict() == {"ease": 3, "mf": 4}
    first = json.loads(trials[(trials["model"] == "gfcf") & (trials["trial"] == 0)]["options"].item())
    assert first == {"gfcf.components": 9, "gfcf.alpha": default_config("gfcf").gfcf.alpha}
    found = read_settings(out)
    assert set(found) == {"ease", "gfcf", "mf"}
    for model in found:
        mine = trials[(trials["model"] == model) & (trials["state"] == "complete")]
        best = (mine["valid ndcg@20"] + mine["valid recall@20"] / 2).idxmax()
        assert json.loads(mine["options"][best]) == found[model]
    csv = tmp_path / "table.csv"
    words = ["compare", "--data", str(ratings), "--settings", str(out), "--models", "[ease,mf]", "--out", str(csv)]
    assert main([*words, "--epochs", "2", "--dim", "8", "--progress", "false"]) == 0
    table = pd.read_csv(csv)
    for model, row in zip(("ease", "mf"), table.itertuples(), strict=True):
        assert row.model == model
        assert table["valid ndcg@20"][row.Index] == trials[trials["model"] == model]["valid ndcg@20"].max()
