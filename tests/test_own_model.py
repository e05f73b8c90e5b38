"""A model in a user's own file goes wherever a model of the library goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from infodcl_geo import Recommender, configure, load_interactions, run
from infodcl_geo.cli import main
from infodcl_geo.comparison import TableFile
from infodcl_geo.errors import InfodclGeoError, OptionError
from infodcl_geo.models import RECIPES, find_recipe

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "own_model.py"
NAME = f"{EXAMPLE}:recipe"
QUICK = ["--epochs", "2", "--dim", "8", "--eval_every", "1", "--progress", "false"]

# A closed form that ranks by a table of its own, so that nobody but its recipe knows how.
NEIGHBOURS = '''
from dataclasses import dataclass

import torch

from infodcl_geo import Recipe
from infodcl_geo.models import Fitted
from infodcl_geo.models.options import ModelOptions
from infodcl_geo.models.scoring import UserRows


@dataclass(frozen=True)
class Options(ModelOptions):
    """Args: power: of the cosine."""

    power: float = 1.0


def history(train, sizes):
    rows = torch.zeros(sizes)
    rows[train[0], train[1]] = 1
    return rows


def build(inputs, options):
    rows = history(inputs.train, inputs.sizes)
    normed = rows / rows.norm(dim=0).clamp(min=1)
    state = {"cosine": (normed.T @ normed).fill_diagonal_(0)}
    return Fitted(state, restore(state, options, inputs.train, inputs.sizes))


def restore(state, options, train, sizes):
    rows, weights = history(train, sizes), state["cosine"] ** options.power
    return lambda users, window: rows[users] @ weights[:, window]


recipe = Recipe(
    "neighbours", "items by the cosine of their users", "-", Options, build, closed_form=True, restore=restore
)
'''


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty users with string ids who take items of their own group of three."""
    path = tmp_path_factory.mktemp("data") / "ratings.csv"
    lines = [f"user{u},{i}" for u in range(30) for i in range(60) if i % 3 == u % 3 and (u + i) % 5]
    path.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def neighbours(tmp_path: Path) -> str:
    path = tmp_path / "neighbours.py"
    path.write_text(NEIGHBOURS)
    return f"{path}:recipe"


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 60


def test_train_evaluate_recommend(ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["train", "--model", NAME, "--data", str(ratings), "--temperature", "0.5", "--out", str(out)]
    assert main([*words, *QUICK]) == 0
    printed = capsys.readouterr()
    assert "softmax-lightgcn on ratings" in printed.out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["model"] == "softmax-lightgcn"
    assert metrics["config"]["options"]["temperature"] == 0.5
    assert metrics["config"]["training"]["lr"] == 0.002, "the recipe's own default"

    # Embeddings rank by themselves: the file of the model is not needed again.
    assert main(["evaluate", "--checkpoint", str(out), "--data", str(ratings)]) == 0
    assert f"{metrics['test']['ndcg@20']:.4f}" in capsys.readouterr().out
    assert main(["recommend", "--checkpoint", str(out), "--users", "user3", "--k", "4", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["user"] == "user3"
    assert len(answer["items"]) == 4


def test_help_and_errors_know_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--model", NAME, "--help"])
    assert "of the softmax over the batch's items [0.2]" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as stop:
        main(["train", "--model", NAME, "--temprature", "1"])
    assert stop.value.code == 2
    assert "did you mean --temperature" in capsys.readouterr().err


def test_compare(ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.csv"
    words = ["compare", "--models", f"lightgcn,{NAME}", "--data", str(ratings), "--seeds", "0", "--out", str(out)]
    assert main([*words, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "| lightgcn " in printed
    assert "| softmax-lightgcn " in printed
    assert [row["model"] for row in TableFile(out).rows()] == ["lightgcn", "softmax-lightgcn"]
    assert main([*words, *QUICK]) == 0
    assert "2 of 2 runs were already in" in capsys.readouterr().out


def test_python(ratings: Path, tmp_path: Path) -> None:
    recipe = find_recipe(NAME)
    data = load_interactions(ratings)
    outcome = run(data, configure(recipe, epochs=2, dim=8), device="cpu", progress=False)
    assert outcome.config.recipe is recipe
    again = run(data, configure(NAME, epochs=2, dim=8), device="cpu", progress=False)
    assert again.test == outcome.test
    recommender = Recommender.from_run(outcome, data)
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    for mine, kept in zip(*(one.recommend(["user1", "user8"], k=5) for one in (recommender, loaded)), strict=True):
        assert mine.user == kept.user
        assert mine.items.tolist() == kept.items.tolist()
        assert mine.scores.tolist() == kept.scores.tolist()


def test_a_closed_form_that_ranks_its_own_way(
    ratings: Path, tmp_path: Path, neighbours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", "--model", neighbours, "--data", str(ratings), "--power", "2", "--out", str(out)]
    assert main([*words, "--progress", "false"]) == 0
    capsys.readouterr()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["config"]["options"] == {"power": 2.0}
    assert "training" not in metrics["config"]
    assert metrics["test"]["recall@20"] > 0.9, "tastes are three groups of twenty items"

    data = load_interactions(ratings)
    expected = run(data, configure(neighbours, power=2.0), device="cpu", progress=False)
    assert expected.test == metrics["test"]
    users = torch.arange(30)
    loaded = Recommender.load(out, recipe=neighbours)
    assert torch.equal(loaded.scorer()(users, slice(0, 60)), expected.scorer(users, slice(0, 60)))

    assert main(["evaluate", "--checkpoint", str(out), "--data", str(ratings), "--model", neighbours]) == 0
    assert f"{metrics['test']['ndcg@20']:.4f}" in capsys.readouterr().out
    words = ["recommend", "--checkpoint", str(out), "--users", "user3", "--k", "3", "--model", neighbours]
    assert main([*words, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    group = {str(item) for item in range(60) if item % 3 == 0}
    assert {str(item["item"]) if isinstance(item, dict) else str(item) for item in answer["items"]} <= group


def test_a_checkpoint_that_needs_its_recipe_says_so(
    ratings: Path, tmp_path: Path, neighbours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    data = load_interactions(ratings)
    Recommender.from_run(run(data, neighbours, device="cpu", progress=False), data).save(out)
    with pytest.raises(
        InfodclGeoError, match=r"neighbours is no model of the library; give its recipe, as file\.py:re"
    ):
        Recommender.load(out)
    with pytest.raises(InfodclGeoError, match="neighbours"):
        Recommender.load(out, recipe="gfcf")
    assert main(["recommend", "--checkpoint", str(out), "--users", "user3"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "variable", "message"),
    [
        (None, "recipe", "no such file"),
        ("recipe = 3\n", "recipe", "has no Recipe called 'recipe'"),
        ("x = 1\n", "mine", "has no Recipe called 'mine'"),
        ("import no_such_module_at_all\n", "recipe", "ModuleNotFoundError"),
        ("1 +\n", "recipe", "SyntaxError"),
        ("raise SystemExit('a\\nb')\n", "recipe", "SystemExit"),
    ],
)
def test_a_file_without_a_recipe_is_one_line(content: str | None, variable: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError, match=message) as error:
        find_recipe(f"{path}:{variable}")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_may_not_take_the_name_of_another(tmp_path: Path) -> None:
    """In a table or a checkpoint the two could not be told apart."""
    path = tmp_path / "mine.py"
    path.write_text(NEIGHBOURS.replace('"neighbours"', f'"{RECIPES[0].name}"'))
    with pytest.raises(OptionError, match="name of a model of the library"):
        find_recipe(f"{path}:recipe")
