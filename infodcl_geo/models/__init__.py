"""Complete recommenders over the layers of :mod:`infodcl_geo.nn`, one a file, and the tuple of their recipes."""

from __future__ import annotations

from . import (
    bm3,
    cfdiff,
    cogcl,
    ddrm,
    diffcl,
    diffmm,
    diffrec,
    directau,
    dualgnn,
    ease,
    enmf,
    freedom,
    gfcf,
    giffcf,
    ials,
    infodcl,
    lattice,
    lgmrec,
    lightgcl,
    lightgcn,
    mf,
    mgcn,
    mmgcn,
    mmssl,
    ncl,
    ngcf,
    popularity,
    recdcl,
    sccf,
    sgcl,
    sgl,
    simdiff,
    simgcl,
    simplex,
    slim,
    slmrec,
    svd,
    turbocf,
    vbpr,
    xsimgcl,
)
from .base import Batch, EmbeddingModel, Fitted, Model
from .find import find_recipe
from .recipe import Inputs, Recipe

RECIPES: tuple[Recipe, ...] = tuple(
    module.recipe
    for module in (
        infodcl,
        simdiff,
        diffcl,
        vbpr,
        freedom,
        bm3,
        mgcn,
        lattice,
        diffmm,
        lgmrec,
        mmssl,
        slmrec,
        dualgnn,
        mmgcn,
        mf,
        enmf,
        sccf,
        directau,
        simplex,
        ngcf,
        lightgcn,
        simgcl,
        xsimgcl,
        sgl,
        sgcl,
        recdcl,
        cogcl,
        ncl,
        lightgcl,
        diffrec,
        cfdiff,
        ddrm,
        giffcf,
        ease,
        slim,
        gfcf,
        turbocf,
        ials,
        svd,
        popularity,
    )
)
"""The models of the library, in the order of its tables."""

COMPARED: tuple[str, ...] = ("popularity", "lightgcn", "infodcl")
"""What a comparison shows where nothing is chosen."""

QUICK: tuple[str, ...] = ("popularity", "svd", "ease", "mf", "infodcl")
"""What a first look at a data set trains, the fastest first."""

__all__ = [
    "COMPARED",
    "QUICK",
    "RECIPES",
    "Batch",
    "EmbeddingModel",
    "Fitted",
    "Inputs",
    "Model",
    "Recipe",
    "find_recipe",
]
