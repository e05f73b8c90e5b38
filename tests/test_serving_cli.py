"""evaluate and recommend on the command line: the recorded data, other data refused, answers as files."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import polars as pl
import pytest

from infodcl_geo.cli import main
from infodcl_geo.data.interactions import InteractionError, load_interactions
from infodcl_geo.evaluation.lists import read_lists, score_lists
from infodcl_geo.recommender import Recommender


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who take any items at any time: what is recalled beyond chance was seen in training."""
    draw = random.Random(3)
    path = tmp_path_factory.mktemp("noise") / "noise.csv"
    rows = [f"=u{u},{i},{draw.randrange(10**6)}" for u in range(150) for i in draw.sample(range(80), 10)]
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def model(noise: Path) -> Path:
    out = noise.parent / "model"
    words = ["train", "--data", str(noise), "--split", "temporal", "--model", "ease", "--l2", "1", "--out", str(out)]
    assert main(words) == 0
    return out


def recall(printed: str) -> float:
    (line,) = [line for line in printed.splitlines() if line.startswith("| recall")]
    return float(line.split("|")[3])


def test_the_recorded_split_is_used(noise: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = json.loads((model / "metrics.json").read_text())["test"]["recall@20"]
    for words in ([], ["--data", str(noise)]):
        assert main(["evaluate", "--checkpoint", str(model), *words]) == 0
        printed = capsys.readouterr().out
        assert recall(printed) == pytest.approx(test, abs=5e-5)
        assert "users evaluated, 0 of them without a training interaction" in printed


@pytest.mark.parametrize(
    "words",
    [
        ["--split", "ratio"],
        ["--split_seed", "5", "--split", "ratio"],
        ["--data", "demo"],
        ["--test_share", "0.1"],
        ["--valid_share", "0.2"],
    ],
)
def test_other_data_are_refused_in_one_line(words: list[str], model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint", str(model), *words]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--other_data true" in error


def test_other_splits_score_nothing_that_was_trained_on(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint", str(model), "--split", "ratio", "--other-data"]) == 0
    printed = capsys.readouterr().out
    assert "held-out interactions that the model was trained on are left out" in printed
    assert recall(printed) < 0.45  # 20 of 72 items by chance; 0.7 where the pairs of training are scored
    assert main(["evaluate", "--checkpoint", str(model), "--data", "demo", "--other-data"]) == 1
    captured = capsys.readouterr()
    assert "no interaction to score" in captured.err
    assert "nan" not in captured.out


def test_groups_and_metrics_beyond(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint", str(model), "--groups", "--beyond", "--ks", "5,20"]) == 0
    printed = capsys.readouterr().out
    for wanted in ("map", "coverage", "gini", "novelty", "popularity", "training interactions of the item"):
        assert wanted in printed


def test_a_checkpoint_that_says_not_where_its_data_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import test_saved

    test_saved.by_hand().save(tmp_path)
    assert main(["evaluate", "--checkpoint", str(tmp_path)]) == 1
    assert "give --data" in capsys.readouterr().err
    test_saved.rewrite(tmp_path, about=lambda a: a["content"]["config"].update(data={"data": "demo", "k_core": "\x1b"}))
    assert main(["evaluate", "--checkpoint", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "k_core" in error
    assert "\x1b" not in error
    test_saved.rewrite(tmp_path, about=lambda a: a["content"]["config"].update(data={"cloud": 1}))
    assert main(["evaluate", "--checkpoint", str(tmp_path)]) == 1
    assert "cloud" in capsys.readouterr().err
    assert main(["evaluate"]) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Lists of other programs


def write_lists(path: Path, model: Path) -> None:
    recommender = Recommender.load(model)
    everybody = recommender.recommend(recommender.user_ids.raw.tolist(), 50)
    rows = [
        (answer.user, int(item), place, float(score))
        for answer in everybody
        for place, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1)
    ]
    random.Random(0).shuffle(rows)
    frame = pl.DataFrame(rows, schema=["user", "item", "rank", "score"], orient="row")
    if path.name == "ranks.csv":
        frame.drop("score").write_csv(path)
    elif path.name == "scores.tsv":
        frame.drop("rank").write_csv(path, separator="\t")
    elif path.suffix == ".parquet":
        frame.drop("score").write_parquet(path)
    else:
        frame.drop("rank").write_ndjson(path)


@pytest.mark.parametrize("name", ["ranks.csv", "scores.tsv", "lists.parquet", "lists.jsonl"])
def test_lists_of_others_score_like_the_model_that_made_them(
    name: str, noise: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    write_lists(path, model)
    words = ["--data", str(noise), "--split", "temporal", "--mask_validation"]
    assert main(["evaluate", "--recommendations", str(path), *words]) == 0
    by_lists = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert main(["evaluate", "--checkpoint", str(model), "--mask_validation"]) == 0
    by_model = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert by_lists == by_model
    assert len(by_lists) == 8


def test_lists_by_hand(tmp_path: Path) -> None:
    for part, rows in {"train": "a,1\nb,2\nc,1", "valid": "a,5", "test": "a,2\na,3\nb,3\nc,4"}.items():
        (tmp_path / f"{part}.csv").write_text(f"user,item\n{rows}\n")
    data = load_interactions(tmp_path)
    lists = tmp_path / "lists.csv"
    # a: 1 is of training and 3 comes twice; b: 9 is no item and keeps its place; d is nobody; c has no list.
    lists.write_text("user,item\na,1\na,3\na,3\na,2\nb,9\nb,3\nd,1\n")
    found = score_lists(read_lists(lists, data), data, ks=(1, 2))
    counts = (found.missing, found.of_others, found.seen, found.repeated, found.strange)
    assert counts == (1, 1, 1, 1, 1)
    assert found.ranking.per_user["recall@1"].tolist() == [0.5, 0, 0]
    assert found.ranking.per_user["recall@2"].tolist() == [1, 1, 0]
    assert found.ranking.per_user["mrr@2"].tolist() == [1, 0.5, 0]
    for content, message in {
        "": "empty",
        "user,item,rank\na,2,first\n": "number",
        "user,score\na,2\n": "item column",
    }.items():
        lists.write_text(content)
        with pytest.raises(InteractionError, match=message) as caught:
            read_lists(lists, data)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# recommend


def test_recommend_writes_what_is_asked_for(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = tmp_path / "users.txt"
    users.write_text("=u3\n\n=u7\nnobody\n")
    words = ["recommend", "--checkpoint", str(model), "--users_file", str(users), "--k", "3", "--unknown", "popular"]
    wanted = Recommender.load(model).recommend(["=u3", "=u7", "nobody"], 3, unknown="popular")
    flat = [(a.user, n, int(i), a.known) for a in wanted for n, i in enumerate(a.items, 1)]
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        capsys.readouterr()
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # A spreadsheet runs no id as a formula.
    assert [(r["user"], int(r["rank"]), int(r["item"]), r["known"] == "true") for r in rows] == [
        (f"'{user}" if user.startswith("=") else user, *rest) for user, *rest in flat
    ]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["user"], line["items"], line["known"]) for line in lines] == [
        (a.user, a.items.tolist(), a.known) for a in wanted
    ]
    frame = pl.read_parquet(tmp_path / "out.parquet")
    assert frame.select("user", "rank", "item", "known").rows() == flat
    assert main([*words, "--out", str(tmp_path / "out.csv")]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "out.csv"), "--overwrite"]) == 0


def test_recommend_prints(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recommend", "--checkpoint", str(model), "--k", "2"]
    assert main([*words, "--users", "=u3", "=u4", "--json", "true"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["user"] for answer in answers] == ["=u3", "=u4"]
    assert main([*words, "--users", "=u3,who\x1b|", "--unknown", "popular"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "1 of 2 users are not known to the model and get popular items" in printed
    assert main([*words, "--history", "3", "17", "--excluded", "5"]) == 0
    assert main([*words, "--users", "who"]) == 1
    assert main(words) == 1
    assert main([*words, "--users", "=u3", "--k", "0"]) == 1
    assert main([*words, "--users", "=u3", "--format", "parquet"]) == 1
    assert "Traceback" not in capsys.readouterr().err
