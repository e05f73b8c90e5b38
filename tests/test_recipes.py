"""What every model of the library holds to: it trains, repeats itself, ranks again from its state, is plain data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import pytest
import torch
from test_ease import blocks
from torch import Tensor

from infodcl_geo.configuration import configure, from_dict
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.data.options import DataOptions
from infodcl_geo.experiment import Run, fit
from infodcl_geo.models import RECIPES, Recipe
from infodcl_geo.models.base import Fitted
from infodcl_geo.models.scoring import Scorer, UserRows, dot_scorer, item_scorer
from infodcl_geo.training.options import TrainOptions
from infodcl_geo.tuning import searched

SMALL: dict[str, Any] = {
    "dim": 8, "num_layers": 2, "hidden": 8, "anchor_batch": 16, "components": 8, "steps": 3, "levels": 2, "codes": 4,
}  # fmt: skip


def planted() -> Interactions:
    """Forty users take items of their own kind."""
    return blocks()


def trained(recipe: Recipe, data: Interactions, seed: int = 0) -> Run:
    changes = {name: value for name, value in SMALL.items() if name in recipe.option_names}
    training = {} if recipe.closed_form else {"epochs": 2, "batch_size": 256, "eval_every": 1}
    return fit(data, configure(recipe, **changes, **training, seed=seed), ks=(5, 20), progress=False)


def all_scores(scorer: Scorer, data: Interactions) -> Tensor:
    return scorer(torch.arange(data.num_users), slice(0, data.num_items))


def restored(run: Run, data: Interactions) -> Scorer:
    """What ranks from nothing but the tensors of the state, the options and the training pairs."""
    state = {name: value.clone() for name, value in run.model.state().items()}
    sizes, recipe = (data.num_users, data.num_items), run.config.recipe
    if recipe.restore is not None:
        options = recipe.options(**json.loads(json.dumps(asdict(run.config.options))))
        return recipe.restore(state, options, data.train, sizes)
    if "item_weights" in state:
        return item_scorer(UserRows(data.train, *sizes), state["item_weights"])
    return dot_scorer(state["users"], state["items"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_it_trains_repeats_itself_and_ranks_again_from_its_state(recipe: Recipe) -> None:
    data = planted()
    run = trained(recipe, data)
    scores = all_scores(run.scorer, data)
    assert scores.shape == (data.num_users, data.num_items)
    assert torch.isfinite(scores).all()
    assert isinstance(run.model, Fitted) == recipe.closed_form
    assert all(isinstance(value, Tensor) for value in run.model.state().values())
    with torch.no_grad():
        assert torch.equal(all_scores(restored(run, data), data), scores)
    parts = [run.scorer(torch.tensor([3, 1]), window) for window in (slice(0, 7), slice(7, data.num_items))]
    torch.testing.assert_close(torch.cat(parts, 1), scores[[3, 1]], atol=1e-5, rtol=1e-4)
    assert torch.equal(all_scores(trained(recipe, data).scorer, data), scores)
    if not recipe.closed_form:
        assert not torch.equal(all_scores(trained(recipe, data, seed=1).scorer, data), scores)
        losses = [value for name, value in run.result.history[0].items() if name not in run.result.validation]
        assert all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_its_options_are_plain_data(recipe: Recipe) -> None:
    config = configure(recipe)
    content = json.loads(json.dumps(config.to_dict()))
    assert from_dict(content) == config
    others = {part.name for kind in (TrainOptions, DataOptions) for part in fields(kind)}
    assert not others & set(recipe.option_names)
    assert set(searched(recipe)) <= {*recipe.option_names, *(part.name for part in fields(TrainOptions))}
    assert recipe.paper
    assert recipe.summary


class Asked:
    """A space that looks for the defaults of a start among what is searched."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self.outside = values, []

    def number(self, name: str, low: float, high: float, *, log: bool = True) -> None:
        value = self.values.get(name)
        if low > high or (value is not None and log and low > 0 and value <= 0):
            self.outside.append(name)  # a search along the logarithm cannot begin with it

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> None:
        self.number(name, low, high, log=log)

    def choice(self, name: str, choices: Sequence[Any]) -> None:
        value = self.values.get(name)
        if value is not None and value not in choices and name != "channels":
            self.outside.append(name)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.search], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("init", ["normal", "pretrained"])
def test_a_search_can_begin_with_its_defaults(recipe: Recipe, init: Any) -> None:
    assert recipe.search is not None
    space = Asked(configure(recipe, init if "init" in recipe.option_names else None).flat())
    recipe.search(space)
    assert not space.outside


def test_names_are_their_own() -> None:
    names = [recipe.name for recipe in RECIPES]
    assert len(set(names)) == len(names)
