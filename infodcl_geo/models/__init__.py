"""Complete recommenders over the layers of :mod:`infodcl_geo.nn`."""

from .base import EmbeddingModel, Model
from .infodcl import InfoDCL, InfoDCLOptions
from .lightgcl import LightGCL, LightGCLOptions
from .lightgcn import LightGCN
from .ncl import NCL, NCLOptions
from .popularity import popularity_embeddings
from .sgl import SGL, SGLOptions
from .simgcl import SimGCL, SimGCLOptions, XSimGCL, XSimGCLOptions

__all__ = [
    "NCL",
    "SGL",
    "EmbeddingModel",
    "InfoDCL",
    "InfoDCLOptions",
    "LightGCL",
    "LightGCLOptions",
    "LightGCN",
    "Model",
    "NCLOptions",
    "SGLOptions",
    "SimGCL",
    "SimGCLOptions",
    "XSimGCL",
    "XSimGCLOptions",
    "popularity_embeddings",
]
