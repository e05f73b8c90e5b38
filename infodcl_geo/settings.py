"""Files of options: settings of models, as a search writes them, and variants of models with labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import OptionError
from .models import find_recipe

LARGEST = 1 << 20
"""Bytes above which a file is no file of options."""


def read_mapping(path: str | PathLike[str]) -> dict[str, Any]:
    """A YAML or JSON file of names with values.

    Raises:
        OptionError: if it cannot be read, or holds something else; one line that names it.
    """
    import yaml

    class NoAliases(yaml.SafeLoader):
        """Safe YAML without aliases, a few hundred bytes of which can stand for gigabytes."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("aliases are not allowed in a file of options")
            return super().compose_node(parent, index)

    path = Path(path)
    try:
        if not path.is_file():
            raise OptionError(f"{path}: no such file")
        if path.stat().st_size > LARGEST:
            raise OptionError(f"{path}: larger than {LARGEST >> 20} MiB, so no file of options")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, NoAliases)
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{path}: neither YAML nor JSON ({' '.join(str(error).split())[:160]})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise OptionError(f"{path}: holds no names with values")
    return {str(name): value for name, value in content.items()}


def read_settings(path: str | PathLike[str]) -> dict[str, dict[str, Any]]:
    """Options of models, as ``infodcl-geo tune`` writes them.

    The file maps models to options, which are those of the command line::

        mf: {num_layers: 1, l2: 0.011, lr: 0.005}
        ease: {l2: 200}

    Returns:
        For each model its options by name.

    Raises:
        OptionError: if the file is not such a mapping; one line that names it.
    """
    settings: dict[str, dict[str, Any]] = {}
    for name, options in read_mapping(path).items():
        if not isinstance(options, Mapping):
            raise OptionError(f"{path}: {name} must be followed by its options")
        settings[find_recipe_in(path, name)] = {str(option): value for option, value in options.items()}
    return settings


def find_recipe_in(path: str | PathLike[str], name: str) -> str:
    """The name of a model that a file names.

    Raises:
        OptionError: if there is none, with the file's name.
    """
    try:
        return find_recipe(name).name
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None


def read_variants(path: str | PathLike[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Variants of models by their labels.

    Each label is followed by a model and the options that differ from its defaults::

        with noise: {model: infodcl}
        plain noise: {model: infodcl, psnet: false}

    Returns:
        For each label the model and its options.

    Raises:
        OptionError: if the file is not such a mapping; one line that names it.
    """
    variants: dict[str, tuple[str, dict[str, Any]]] = {}
    for label, options in read_mapping(path).items():
        if not isinstance(options, Mapping) or not isinstance(options.get("model"), str):
            raise OptionError(f"{path}: {label} must be followed by a model and its options")
        variants[label] = options["model"], {str(k): v for k, v in options.items() if k != "model"}
    if not variants:
        raise OptionError(f"{path}: has no variants")
    return variants
