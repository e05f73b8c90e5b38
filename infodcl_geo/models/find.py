"""A recipe by its name, or from a file of the user's."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import OptionError
from .recipe import Recipe


def find_recipe(name: str | Recipe, known: Sequence[Recipe] | None = None) -> Recipe:
    """The recipe that is called ``name``.

    Args:
        name: a recipe itself, the name of a model of the library, or ``path/to/file.py:variable``. The file is run, as
            any import is, so it must be one that you trust.
        known: the recipes to look among; those of the library by default.

    Raises:
        OptionError: if there is none, with the nearest name; or if the file has no such recipe.
    """
    if isinstance(name, Recipe):
        return name
    if known is None:
        from . import RECIPES

        known = RECIPES
    for recipe in known:
        if recipe.name == name:
            return recipe
    path, colon, variable = name.rpartition(":")
    if colon and path.endswith(".py"):
        own = _from_file(Path(path), variable)
        if any(own.name == recipe.name and own is not recipe for recipe in known):
            # In a table or a checkpoint the two could not be told apart.
            raise OptionError(f"{path}: {own.name} is the name of a model of the library; give yours another")
        return own
    names = [recipe.name for recipe in known]
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(sorted(names))}, or file.py:recipe"
    raise OptionError(f"there is no model {name!r}: {hint}")


def _from_file(path: Path, variable: str) -> Recipe:
    if not path.is_file():
        raise OptionError(f"{path}: no such file")
    module_name = f"_infodcl_geo_user_{path.resolve().stem}_{abs(hash(path.resolve()))}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise OptionError(f"{path}: cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their module up while it is made
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            reason = " ".join(str(error).split())[:200]
            raise OptionError(f"{path}: {type(error).__name__} when imported: {reason}") from error
    recipe = getattr(module, variable, None)
    if not isinstance(recipe, Recipe):
        raise OptionError(f"{path}: has no Recipe called {variable!r}")
    return recipe
