"""The systems that the papers' tables name: which model of the library each is, or why it is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from reference import needs
from results import markdown_table, read_rows

COSTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "epoch_time_office" / "epochs.csv"

TABLES: dict[str, dict[str, str]] = {
    "InfoDCL, Table 2": {
        "MF": "mf", "ENMF": "enmf", "NGCF": "ngcf", "LightGCN": "lightgcn", "DiffRec": "diffrec", "DDRM": "ddrm",
        "GiffCF": "giffcf", "SGL": "sgl", "NCL": "ncl", "SimGCL": "simgcl", "RecDCL": "recdcl", "SGCL": "sgcl",
        "CoGCL": "cogcl", "InfoDCL-S": "infodcl", "InfoDCL-D": "infodcl",
    },
    "InfoDCL, Table 3": {
        "MMSSL": "mmssl", "LATTICE": "lattice", "BM3": "bm3", "LGMRec": "lgmrec", "MGCN": "mgcn", "DiffMM": "diffmm",
        "InfoDCL": "infodcl",
    },
    "SimDiff, Table III": {
        "MF": "mf", "ENMF": "enmf", "NGCF": "ngcf", "LightGCN": "lightgcn", "SGL": "sgl", "NCL": "ncl",
        "LightGCL": "lightgcl", "SCCF": "sccf", "DiffRec": "diffrec", "DDRM-LightGCN": "ddrm", "DDRM-SGL": "DDRM-SGL",
        "CF-Diff": "cfdiff", "GiffCF": "giffcf", "SimDiff": "simdiff",
    },
    "SimDiff, Table VI": {
        "MMSSL": "mmssl", "LATTICE": "lattice", "BM3": "bm3", "LGMRec": "lgmrec", "MGCN": "mgcn", "SLMRec": "slmrec",
        "DiffMM": "diffmm", "SimDiff": "simdiff",
    },
    "DiffCL, Table II": {
        "BPR": "mf", "LightGCN": "lightgcn", "VBPR": "vbpr", "MMGCN": "mmgcn", "DualGNN": "dualgnn",
        "SLMRec": "slmrec", "BM3": "bm3", "MGCN": "mgcn", "FREEDOM": "freedom", "DiffMM": "diffmm", "DiffCL": "diffcl",
    },
}  # fmt: skip
"""By the table the systems as it names them, each with the model here, or with its name among the absent."""

ABSENT: dict[str, tuple[str, str]] = {
    "DDRM-SGL": ("Zhao et al., DDRM, SIGIR 2024", "`ddrm` has LightGCN as its backbone, and no other"),
}
"""Systems that are no model of the library: paper, and why not."""


def year(paper: str) -> str:
    """The year that a paper's reference ends with."""
    found = re.search(r"(?:19|20)\d\d$", paper)
    return found[0] if found else ""


def costs() -> dict[str, str]:
    """What an epoch costs by the model, as a ratio to LightGCN's."""
    if not COSTS.exists():
        return {}
    return {row["model"]: f"{float(row['ratio']):.2f}" for row in read_rows(COSTS) if row["ratio"]}


def named_in() -> dict[str, list[str]]:
    """The tables that name a model or an absent system."""
    found: dict[str, list[str]] = {}
    for table, systems in TABLES.items():
        for place in dict.fromkeys(systems.values()):
            found.setdefault(place, []).append(table)
    return found


def kind_of(recipe: Any) -> str:
    return "closed form" if recipe.closed_form else "trained"


def systems_table() -> str:
    """All models and all systems of the papers' tables, with what an epoch costs."""
    from infodcl_geo.models import RECIPES

    found, tables = costs(), named_in()
    rows = []
    for recipe in RECIPES:
        cost = "-" if recipe.closed_form else found.get(recipe.name, "not measured")
        place = "; ".join(tables.get(recipe.name, []))
        paper = "" if recipe.paper == "-" else recipe.paper
        rows.append([f"`{recipe.name}`", paper, year(paper), kind_of(recipe), needs(recipe), cost, place])
    for name, (paper, reason) in ABSENT.items():
        rows.append([name, paper, year(paper), f"not here: {reason}", "", "", "; ".join(tables[name])])
    return markdown_table(["`--model`", "paper", "year", "kind", "needs", "epoch", "named in"], rows)
