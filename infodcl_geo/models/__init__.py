"""Complete recommenders over the layers of :mod:`infodcl_geo.nn`."""

from .base import EmbeddingModel, Model
from .diffcl import DiffCL, DiffCLOptions
from .diffrec import DiffRec, DiffRecOptions
from .ease import EASEOptions, ease_weights
from .gfcf import GFCFOptions, gfcf_factors, gfcf_scorer
from .infodcl import InfoDCL, InfoDCLOptions
from .lightgcl import LightGCL, LightGCLOptions
from .lightgcn import LightGCN
from .ncl import NCL, NCLOptions
from .popularity import popularity_embeddings
from .sgl import SGL, SGLOptions
from .simdiff import SimDiff, SimDiffOptions
from .simgcl import SimGCL, SimGCLOptions, XSimGCL, XSimGCLOptions

__all__ = [
    "NCL",
    "SGL",
    "DiffCL",
    "DiffCLOptions",
    "DiffRec",
    "DiffRecOptions",
    "EASEOptions",
    "EmbeddingModel",
    "GFCFOptions",
    "InfoDCL",
    "InfoDCLOptions",
    "LightGCL",
    "LightGCLOptions",
    "LightGCN",
    "Model",
    "NCLOptions",
    "SGLOptions",
    "SimDiff",
    "SimDiffOptions",
    "SimGCL",
    "SimGCLOptions",
    "XSimGCL",
    "XSimGCLOptions",
    "ease_weights",
    "gfcf_factors",
    "gfcf_scorer",
    "popularity_embeddings",
]
