"""What, with the data, determines a run: a recipe, its options, and the options of training."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .errors import OptionError
from .models import RECIPES, Recipe, find_recipe
from .models.options import Init, ModelOptions, VectorOptions
from .training.options import TrainOptions

TRAINING: tuple[str, ...] = tuple(part.name for part in fields(TrainOptions))
_OF_VECTORS = tuple(part.name for part in fields(VectorOptions))
_OF_TERM = ("item_term", "item_term_weight")


@dataclass(frozen=True)
class Config:
    """A model with its settings. Made by :func:`configure`.

    Args:
        recipe: the model.
        options: its options.
        training: how it is trained; of no concern to closed forms.
    """

    recipe: Recipe
    options: ModelOptions
    training: TrainOptions = field(default_factory=TrainOptions)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.recipe.name

    @property
    def uses_vectors(self) -> bool:
        """Whether pretrained vectors are the model, its start, or in its channels."""
        recipe = self.recipe
        return recipe.needs_vectors or recipe.reads_channels or getattr(self.options, "init", None) == "pretrained"

    @property
    def has_item_term(self) -> bool:
        """Whether an item term is added to the embeddings."""
        return getattr(self.options, "item_term", "none") != "none"

    def flat(self) -> dict[str, Any]:
        """Options of the model and of training by name; no name stands in both."""
        return {**asdict(self.options), **({} if self.recipe.closed_form else asdict(self.training))}

    def to_dict(self) -> dict[str, Any]:
        """What the run uses and nothing else, as plain data: ``model``, ``options`` and ``training``."""
        content: dict[str, Any] = {"model": self.name, "options": asdict(self.options)}
        if not self.recipe.closed_form:
            content["training"] = asdict(self.training)
        return content

    def identity(self) -> dict[str, Any]:
        """:meth:`to_dict` without what has no effect beside the other options."""
        content = self.to_dict()
        idle = (*(() if self.uses_vectors else _OF_VECTORS), *(() if self.has_item_term else _OF_TERM))
        content["options"] = {name: v for name, v in content["options"].items() if name not in idle}
        return content

    def changed(self, **changes: Any) -> Config:
        """A copy with other values of some options, of the model or of training: ``config.changed(dim=32, lr=0.01)``.

        Raises:
            OptionError: if the model has no such option, or the values cannot be.
        """
        known = {*self.recipe.option_names, *TRAINING}
        for name in changes:
            if name not in known:
                raise OptionError(no_such_option(self.recipe, name, known))
        of_training = {name: value for name, value in changes.items() if name in TRAINING}
        of_model = {name: value for name, value in changes.items() if name not in TRAINING}
        return replace(self, options=replace(self.options, **of_model), training=replace(self.training, **of_training))


def configure(model: str | Recipe, init: Init | None = None, **changes: Any) -> Config:
    """A model's defaults, with some options changed.

    Args:
        model: a recipe, a model's name, or ``file.py:recipe``, see :func:`~infodcl_geo.models.find_recipe`.
        init: initial embeddings, with the scale and the learning rate that suit them; ``None`` for the model's own.
        changes: options of the model and of training by name, such as ``dim=32``, ``seed=1``, ``epochs=20``.

    Raises:
        OptionError: if there is no such model or option, or the values cannot be.
    """
    recipe = find_recipe(model)
    return Config(recipe, recipe.options()).changed(**{**recipe.defaults(init), **changes})


def no_such_option(recipe: Recipe, name: str, known: Iterable[str]) -> str:
    """Why ``name`` is refused, in one line: who has it instead, or what was probably meant."""
    owners = [other.name for other in RECIPES if name in other.option_names]
    near = difflib.get_close_matches(name, sorted(known), 1)
    if name in TRAINING and recipe.closed_form:
        return f"{recipe.name} has no option {name}: it is fitted at once, without training"
    if owners:
        return f"{recipe.name} has no option {name}; {', '.join(owners)} {'have' if len(owners) > 1 else 'has'} it"
    return f"{recipe.name} has no option {name}" + (f"; did you mean {near[0]}?" if near else "")


def from_dict(content: Mapping[str, Any]) -> Config:
    """The configuration that :meth:`Config.to_dict` wrote.

    Raises:
        OptionError: if it is of an unknown model, or of other options than its.
    """
    name = content.get("model")
    if not isinstance(name, str):
        raise OptionError("a configuration names its model: model is missing")
    recipe = find_recipe(name)
    parts: dict[str, Any] = {}
    for part in ("options", "training"):
        values = content.get(part, {})
        if not isinstance(values, Mapping):
            raise OptionError(f"{part} of a configuration are names with values")
        parts |= values
    return configure(recipe, parts.pop("init", None), **parts)
