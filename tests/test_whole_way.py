"""From a file to the numbers and back: whatever the data, filters, splits, models and cut-offs, no number is wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from test_evaluation import as_ranked, by_rule, naive
from test_recipes import SMALL
from torch import Tensor

from infodcl_geo.cli import main
from infodcl_geo.configuration import configure
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import InteractionError, Interactions
from infodcl_geo.data.options import DataOptions
from infodcl_geo.errors import InfodclGeoError
from infodcl_geo.evaluation.metrics import BEYOND, METRICS
from infodcl_geo.evaluation.ranking import evaluate, rank_items
from infodcl_geo.experiment import Run, run
from infodcl_geo.models import RECIPES, find_recipe
from infodcl_geo.models.scoring import ExactScorer, Scorer
from infodcl_geo.recommender import Recommender

MODELS = ("popularity", "ease", "slim", "gfcf", "turbocf", "svd", "ials", "mf", "lightgcn", "diffrec", "giffcf")
Draw = Callable[[st.SearchStrategy], Any]


@st.composite
def tables(draw: Draw) -> str:
    """A small table of user, item, rating and time, with repeated rows and equal times."""
    users, items = draw(st.integers(2, 9)), draw(st.integers(3, 14))
    named = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows = draw(st.integers(2, 70))
    u, i = rng.integers(0, users, rows), (items * rng.random(rows) ** 2).astype(int)
    r, t = rng.integers(1, 6, rows), rng.integers(0, draw(st.sampled_from([1, 5, 10**6])), rows)
    user = [f"u{n}" if named else str(n * 7) for n in u]
    lines = [f"{a},{b},{c},{d}" for a, b, c, d in zip(user, i, r, t, strict=True)]
    return "\n".join(["user,item,rating,time", *lines]) + "\n"


@st.composite
def options(draw: Draw) -> dict[str, Any]:
    valid, test = draw(st.sampled_from([(0.1, 0.2), (0.0, 0.3), (0.3, 0.0), (0.2, 0.5), (0.0, 0.0)]))
    return {
        "split": draw(st.sampled_from(["ratio", "leave-one-out", "temporal"])),
        "valid_share": valid,
        "test_share": test,
        "split_seed": draw(st.integers(0, 3)),
        "min_rating": draw(st.sampled_from([None, None, 2.0, 5.0])),
        "k_core": draw(st.sampled_from([0, 0, 2, 3])),
    }


def reject_if_one_line(error: InfodclGeoError) -> None:
    """What is refused as it should be is no example."""
    if "\n" not in str(error):
        reject()


def loaded(folder: str, text: str, how: dict[str, Any]) -> tuple[Interactions, DataOptions]:
    file = Path(folder) / "data.csv"
    file.write_text(text)
    asked = DataOptions(str(file), **how)
    try:
        return asked.load(), asked
    except InteractionError as error:  # nothing is left, say: one line, and no data set
        reject_if_one_line(error)
        raise


def keys(data: Interactions, part: str) -> set[tuple[Any, Any]]:
    users, items = getattr(data, part)
    return set(zip(data.user_ids.decode(users).tolist(), data.item_ids.decode(items).tolist(), strict=True))


@pytest.mark.filterwarnings("ignore")
@given(tables(), options())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_parts_are_disjoint_and_hold_what_the_file_does(text: str, how: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, asked = loaded(folder, text, how)
        again = asked.load()
    parts = [keys(data, part) for part in ("train", "valid", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == data.num_interactions
    rows = [line.split(",") for line in text.splitlines()[1:]]
    least = how["min_rating"] or 0
    kept = {(u if u[0] == "u" else int(u), int(i)) for u, i, r, _ in rows if float(r) >= least}
    while True:  # the core, as its definition has it
        degree = [list(map(lambda pair, side=side: pair[side], kept)) for side in (0, 1)]
        inner = {pair for pair in kept if all(degree[s].count(pair[s]) >= how["k_core"] for s in (0, 1))}
        if inner == kept:
            break
        kept = inner
    assert set().union(*parts) == kept
    assert again.fingerprint == data.fingerprint
    if how["split"] == "temporal":
        when: dict[tuple[Any, Any], int] = {}
        for u, i, r, t in rows:
            if float(r) >= least:
                pair = (u if u[0] == "u" else int(u), int(i))
                when[pair] = min(when.get(pair, int(t)), int(t))
        times = [[when[pair] for pair in part] for part in parts]
        for earlier, later in ((0, 1), (0, 2), (1, 2)):
            assert not times[earlier] or not times[later] or max(times[earlier]) < min(times[later])


def trained(data: Interactions, name: str, ks: tuple[int, ...], seed: int) -> Run:
    recipe = find_recipe(name)
    changes = {key: value for key, value in SMALL.items() if key in recipe.option_names}
    training = {} if recipe.closed_form else {"epochs": 1 + seed % 2, "batch_size": 32}
    if training:
        training |= {"eval_every": 1, "monitor": f"ndcg@{max(ks)}"}
    assert recipe in RECIPES
    return run(data, configure(recipe, **changes, **training, seed=seed), ks=ks, device="cpu", progress=False)


def every_score(scorer: Scorer, data: Interactions) -> Tensor:
    """All scores, the exact ones where the model has them."""
    users, items = torch.meshgrid(torch.arange(data.num_users), torch.arange(data.num_items), indexing="ij")
    if isinstance(scorer, ExactScorer):
        return scorer.exact(users.flatten(), items.flatten()).view(data.num_users, data.num_items)
    return scorer(torch.arange(data.num_users), slice(0, data.num_items))


def beyond(lists: list[list[int]], data: Interactions, k: int) -> dict[str, float]:
    counts = [data.train[1].tolist().count(item) for item in range(data.num_items)]
    shown = [item for of_user in lists for item in of_user[:k]]
    exposure = sorted(shown.count(item) for item in range(data.num_items))
    differences = sum(abs(a - b) for a in exposure for b in exposure)
    information = [np.log2(data.num_users / max(1, counts[item])) for item in shown]
    return {
        "coverage": len(set(shown)) / data.num_items,
        "gini": differences / (2 * data.num_items * sum(exposure)) if shown else float("nan"),
        "novelty": float(np.mean(information)) if shown else float("nan"),
        "popularity": float(np.mean([counts[item] for item in shown])) if shown else float("nan"),
    }


@pytest.mark.filterwarnings("ignore")
@given(
    tables(), options(), st.sampled_from(MODELS), st.lists(st.integers(1, 20), min_size=1, max_size=3, unique=True),
    st.integers(0, 3), st.integers(1, 9), st.integers(1, 15),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_numbers_are_those_of_lists_and_come_back_from_disk(
    text: str, how: dict[str, Any], name: str, ks: list[int], seed: int, chunk: int, item_chunk: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, asked = loaded(folder, text, how)
        try:
            outcome = trained(data, name, tuple(ks), seed)
        except InfodclGeoError as error:  # one user, say
            reject_if_one_line(error)
            raise
        if not find_recipe(name).closed_form and not outcome.result.best_epoch:
            return  # nothing to select by
        Recommender.from_run(outcome, data, asked).save(Path(folder) / "model")
        recommender = Recommender.load(Path(folder) / "model")
        recorded = DataOptions(**recommender.config["data"])
        assert asdict(recorded) == asdict(asked)
        again = recorded.load()
    sizes = {"num_users": data.num_users, "num_items": data.num_items}
    for split, printed in (("valid", outcome.result.validation), ("test", outcome.test)):
        held_out = getattr(data, split)
        if not held_out.size(1):
            assert all(np.isnan(value) for value in printed.values())
            continue
        assert recommender.score(again, split, ks=tuple(ks)).ranking.mean() == printed  # type: ignore[arg-type]
        scores = as_ranked(every_score(outcome.scorer, data), data.train)
        for k in ks:
            for metric, value in naive(scores, held_out, data.train, k).items():
                assert printed[f"{metric}@{k}"] == pytest.approx(value, abs=1e-12), (split, metric)
        counts = torch.bincount(data.train[1], minlength=data.num_items)
        alone = evaluate(
            recommender.scorer(), held_out, seen=[data.train], ks=(ks[0],), chunk_size=chunk,
            item_chunk_size=item_chunk, item_counts=counts, **sizes,
        )  # fmt: skip
        assert {f"{m}@{ks[0]}": printed[f"{m}@{ks[0]}"] for m in METRICS} == alone.mean()
        own = data.train.T.tolist()
        lists = [by_rule(scores, user, {i for u, i in own if u == user}) for user in alone.users.tolist()]
        for metric, value in beyond(lists, data, ks[0]).items():
            assert metric in BEYOND
            assert alone.beyond[f"{metric}@{ks[0]}"] == pytest.approx(value, nan_ok=True), metric
    # What is served is what was measured.
    users = sorted(set(data.train[0].tolist()))
    long, short = (recommender.recommend(data.user_ids.decode(users).tolist(), k, exclude_seen=True) for k in (10, 3))
    for row, whole, part in zip(users, long, short, strict=True):
        scores = every_score(outcome.scorer, data)
        seen = {i for u, i in torch.cat([data.train, data.valid], 1).T.tolist() if u == row}
        expected = data.item_ids.decode(by_rule(scores, row, seen)[:10]).tolist()
        assert whole.items.tolist() == expected
        assert part.items.tolist() == expected[:3]


def tied_pairs() -> Tensor:
    """Users in pairs of equals who take items in pairs of equals: many scores are the same."""
    rng = np.random.default_rng(0)
    pairs = set()
    for pair in range(30):
        for twin in rng.choice(20, 6, replace=False).tolist():
            pairs |= {(2 * pair + a, 2 * twin + b) for a in (0, 1) for b in (0, 1)}
    return torch.tensor(sorted(pairs)).T


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_no_model_ranks_by_what_is_scored_together(recipe: Any) -> None:
    pairs = tied_pairs()
    kept = torch.rand(pairs.size(1), generator=torch.Generator().manual_seed(0)) < 0.8
    data = Interactions(
        pairs[:, kept], pairs[:, ~kept], torch.empty(2, 0, dtype=torch.int64), 60, 40,
        IdMap(range(60)), IdMap(range(40)), name="twins",
    )  # fmt: skip
    changes = {key: value for key, value in SMALL.items() if key in recipe.option_names}
    variants: list[dict[str, Any]] = [{}]
    if "item_term" in recipe.option_names and recipe.name in ("mf", "infodcl"):
        variants += [{"item_term": form, "item_term_weight": 0.5} for form in ("ease", "slim")]
    for variant in variants:
        training = {} if recipe.closed_form else {"epochs": 2, "batch_size": 256, "eval_every": 1}
        scorer = run(data, configure(recipe, **changes, **training, **variant), device="cpu", progress=False).scorer
        users, sizes = torch.arange(60), {"num_users": 60, "num_items": 40}
        items, scores = rank_items(scorer, users, 40, seen=[data.train], **sizes)
        threads = torch.get_num_threads()
        try:
            for count, chunk, item_chunk, k in (
                (1, 1, 65536, 40), (1, 7, 3, 5), (2, 13, 11, 20), (4, 64, 17, 40), (3, 512, 65536, 1),
            ):  # fmt: skip
                torch.set_num_threads(count)
                found = rank_items(
                    scorer, users, k, seen=[data.train], chunk_size=chunk, item_chunk_size=item_chunk, **sizes
                )
                assert torch.equal(found[0], items[:, :k])
                assert torch.equal(found[1], scores[:, :k])
            shuffled = torch.randperm(60)
            assert torch.equal(rank_items(scorer, shuffled, 40, seen=[data.train], **sizes)[0], items[shuffled])
        finally:
            torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["ease", "mf"])
def test_the_commands_print_one_number(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    rows = "".join(f"{u},{i},{rng.integers(50)}\n" for u in range(60) for i in rng.choice(40, 9, replace=False))
    (tmp_path / "data.csv").write_text("user,item,time\n" + rows)
    epochs = [] if model == "ease" else ["--epochs", "2"]
    common = ["--split", "temporal", "--valid_share", "0.2", "--test_share", "0.3", "--k_core", "3"]
    where = ["--data", str(tmp_path / "data.csv"), "--out", str(tmp_path / "run")]
    assert main(["train", *where, *common, "--model", model, *epochs]) == 0
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| test"))
    for ks in ("20", "5,20", "20,33"):
        assert main(["evaluate", "--checkpoint", str(tmp_path / "run"), "--ks", ks]) == 0
        lines = capsys.readouterr().out.splitlines()
        column = [cell.strip() for cell in next(line for line in lines if "@20" in line).split("|")].index("@20")
        for place, metric in ((2, "recall"), (3, "ndcg")):
            row = next(line for line in lines if line.startswith(f"| {metric}"))
            assert row.split("|")[column].strip() == printed.split("|")[place].strip()


@pytest.mark.filterwarnings("ignore")
def test_users_without_a_training_interaction_get_one_list_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    rows = [(u, i) for u in range(20) for i in rng.choice(12, 5, replace=False).tolist()]
    (tmp_path / "train.csv").write_text("user,item\n" + "".join(f"u{u},{i}\n" for u, i in rows))
    cold = [(u, i) for u in range(20, 29) for i in rng.choice(16, 3, replace=False).tolist()]
    (tmp_path / "test.csv").write_text("user,item\n" + "".join(f"u{u},{i}\n" for u, i in cold))
    values = []
    for model in ("ease", "popularity", "mf"):
        out, epochs = str(tmp_path / model), ["--epochs", "1"] if model == "mf" else []
        assert main(["train", "--data", str(tmp_path), "--model", model, "--out", out, *epochs]) == 0
        printed = capsys.readouterr().out
        assert "9 users, 9 of them without a training interaction (they get popular items)" in printed
        values.append(next(line for line in printed.splitlines() if line.startswith("| test")))
        assert main(["evaluate", "--checkpoint", out, "--ks", "4", "--groups", "true"]) == 0
        printed = capsys.readouterr().out
        assert "9 users evaluated, 9 of them without a training interaction (they get popular items)" in printed
        group = next(line for line in printed.splitlines() if line.startswith("| 0 "))
        recommender = Recommender.load(out)
        data = DataOptions(**recommender.config["data"]).load()
        listed = recommender.recommend([f"u{u}" for u in range(20, 29)], 4)
        taken = {u: {i for v, i in cold if v == u} for u, _ in cold}
        recall = np.mean([len(taken[20 + n] & set(found.items.tolist())) / 3 for n, found in enumerate(listed)])
        assert group.split("|")[2:4] == [f" {9:<7} ", f" {recall:.4f}     "[: len(group.split("|")[3])]]
        assert recommender.score(data, ks=(4,)).ranking.mean()["recall@4"] == pytest.approx(recall)
    assert len(set(values)) == 1
