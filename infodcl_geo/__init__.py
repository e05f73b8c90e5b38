"""Graph-based recommendation with informative-noise diffusion (InfoDCL) on PyTorch Geometric."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .channels.base import Channel as Channel
    from .configuration import Config as Config
    from .configuration import configure as configure
    from .data.interactions import Interactions as Interactions
    from .data.interactions import Split as Split
    from .data.interactions import load_interactions as load_interactions
    from .errors import InfodclGeoError as InfodclGeoError
    from .experiment import fit as fit
    from .experiment import run as run
    from .models.base import EmbeddingModel as EmbeddingModel
    from .models.recipe import Recipe as Recipe
    from .outcome import Run as Run
    from .recommender import Recommender as Recommender

_WHERE = {
    "Channel": "channels.base",
    "Config": "configuration",
    "EmbeddingModel": "models.base",
    "InfodclGeoError": "errors",
    "Interactions": "data.interactions",
    "Recipe": "models.recipe",
    "Recommender": "recommender",
    "Run": "outcome",
    "Split": "data.interactions",
    "configure": "configuration",
    "fit": "experiment",
    "load_interactions": "data.interactions",
    "run": "experiment",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the version and the command line's help need no torch.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
