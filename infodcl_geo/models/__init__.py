"""Complete recommenders over the layers of :mod:`infodcl_geo.nn`."""

from .base import EmbeddingModel, Model
from .infodcl import InfoDCL, InfoDCLOptions
from .lightgcn import LightGCN
from .popularity import popularity_embeddings
from .simgcl import SimGCL, SimGCLOptions, XSimGCL, XSimGCLOptions

__all__ = [
    "EmbeddingModel",
    "InfoDCL",
    "InfoDCLOptions",
    "LightGCN",
    "Model",
    "SimGCL",
    "SimGCLOptions",
    "XSimGCL",
    "XSimGCLOptions",
    "popularity_embeddings",
]
