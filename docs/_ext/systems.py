"""The systems that the papers' tables name: which model of the library each is, or why it is none."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean
from typing import Any

from reference import needs
from results import markdown_table, read_rows

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
COSTS = RESULTS / "epoch_time_office" / "epochs.csv"

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


PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "office": {
        "infodcl": (0.1398, 0.0625), "simdiff": (0.1361, 0.0606), "bm3": (0.1158, 0.0527), "mgcn": (0.1196, 0.0544),
        "lattice": (0.1345, 0.0524), "diffmm": (0.1351, 0.0599), "lgmrec": (0.1348, 0.0598), "mmssl": (0.1277, 0.0541),
        "slmrec": (0.1126, 0.0508), "mf": (0.0598, 0.0232), "enmf": (0.1004, 0.0500), "sccf": (0.1221, 0.0520),
        "ngcf": (0.0928, 0.0400), "lightgcn": (0.1215, 0.0558), "simgcl": (0.1305, 0.0562), "sgl": (0.1151, 0.0549),
        "sgcl": (0.0414, 0.0206), "recdcl": (0.1254, 0.0534), "cogcl": (0.1206, 0.0572), "ncl": (0.0966, 0.0463),
        "lightgcl": (0.1180, 0.0531), "diffrec": (0.1159, 0.0511), "cfdiff": (0.1028, 0.0500),
        "ddrm": (0.0133, 0.0058), "giffcf": (0.1252, 0.0537),
    },
    "tiktok": {
        "simdiff": (0.1348, 0.0588), "bm3": (0.0988, 0.0399), "mgcn": (0.1023, 0.0367), "lattice": (0.0888, 0.0386),
        "diffmm": (0.1129, 0.0456), "lgmrec": (0.0672, 0.0265), "mmssl": (0.0921, 0.0394), "slmrec": (0.0967, 0.0346),
        "mf": (0.0557, 0.0235), "enmf": (0.1031, 0.0395), "sccf": (0.0506, 0.0216), "ngcf": (0.0628, 0.0245),
        "lightgcn": (0.0907, 0.0379), "sgl": (0.0798, 0.0342), "ncl": (0.0898, 0.0402), "lightgcl": (0.0911, 0.0435),
        "diffrec": (0.1036, 0.0446), "cfdiff": (0.0665, 0.0312), "ddrm": (0.0145, 0.0057), "giffcf": (0.1185, 0.0462),
    },
}  # fmt: skip
"""Recall@20 and NDCG@20 by data set and model, from the tables above; of InfoDCL with two channels."""

RUNS: dict[str, tuple[str, ...]] = {
    "office": ("compare_office", "compare_office_systems"),
    "tiktok": ("compare_tiktok", "compare_tiktok_random", "compare_tiktok_systems"),
}
"""Studies with runs of single models, by data set."""


def best_runs(data: str, model: str) -> tuple[str, list[dict[str, str]]]:
    """The study and the runs of a model that validation prefers, of those of one file and one setting."""
    found: list[tuple[float, str, list[dict[str, str]]]] = []
    for study in RUNS[data]:
        for path in sorted((RESULTS / study).glob("runs*.csv")):
            rows = [row for row in read_rows(path) if (row["data"], row["model"]) == (data, model)]
            if rows:
                found.append((fmean(float(row["valid ndcg@20"]) for row in rows), study, rows))
    if not found:
        return "", []
    _, study, rows = max(found, key=lambda one: one[0])
    return study, rows


def published_table(data: str) -> str:
    """What the papers report of the models on a data set, beside what was measured here."""
    from infodcl_geo.models import RECIPES

    rows = []
    for recipe in RECIPES:
        study, runs = best_runs(data, recipe.name)
        published = PUBLISHED[data].get(recipe.name)
        if published is None and not runs:
            continue
        theirs = "" if published is None else " / ".join(f"{number:.4f}" for number in published)
        if not runs:
            rows.append([f"`{recipe.name}`", theirs, "not run yet", "", "", ""])
            continue
        ours = [fmean(float(run[f"test {name}"]) for run in runs) for name in ("recall@20", "ndcg@20")]
        ratio = "" if published is None else " / ".join(f"{a / b:.2f}" for a, b in zip(ours, published, strict=True))
        mine = " / ".join(f"{number:.4f}" for number in ours)
        seeds = "-" if recipe.closed_form else str(len(runs))
        rows.append([f"`{recipe.name}`", theirs, mine, ratio, seeds, f"{{ref}}`{study} <{study}>`"])
    return markdown_table(["model", "published", "here", "ratio", "seeds", "study"], rows)
