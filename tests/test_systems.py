"""The page of the papers' systems: it is what the code and the results say, and leaves no system out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from infodcl_geo.models import RECIPES

ROOT = Path(__file__).resolve().parents[1]

# As the papers name them in the heads or rows of their tables.
NAMED = {
    "InfoDCL, Table 2": "MF ENMF NGCF LightGCN DiffRec DDRM GiffCF SGL NCL SimGCL RecDCL SGCL CoGCL InfoDCL-S "
    "InfoDCL-D",
    "InfoDCL, Table 3": "MMSSL LATTICE BM3 LGMRec MGCN DiffMM InfoDCL",
    "SimDiff, Table III": "MF ENMF NGCF LightGCN SGL NCL LightGCL SCCF DiffRec DDRM-LightGCN DDRM-SGL CF-Diff GiffCF "
    "SimDiff",
    "SimDiff, Table VI": "MMSSL LATTICE BM3 LGMRec MGCN SLMRec DiffMM SimDiff",
    "DiffCL, Table II": "BPR LightGCN VBPR MMGCN DualGNN SLMRec BM3 MGCN FREEDOM DiffMM DiffCL",
}


@pytest.fixture
def systems(doc_script: Callable[[str], ModuleType]) -> ModuleType:
    return doc_script("_ext/systems")


def test_the_page_is_what_the_code_and_the_results_say(doc_script: Callable[[str], ModuleType]) -> None:
    page = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    assert doc_script("front").systems_page(page) == page, "run: python docs/front.py"


def test_every_system_of_the_tables_is_a_model_or_says_why_not(systems: ModuleType) -> None:
    assert {table: set(named.split()) for table, named in NAMED.items()} == {
        table: set(found) for table, found in systems.TABLES.items()
    }
    names = {recipe.name for recipe in RECIPES}
    places = {place for found in systems.TABLES.values() for place in found.values()}
    assert places - names == set(systems.ABSENT)
    assert all(reason for _, reason in systems.ABSENT.values())


def test_every_row_has_its_paper_its_year_and_its_cost(systems: ModuleType) -> None:
    costs = systems.costs()
    for recipe in RECIPES:
        assert systems.year(recipe.paper) or recipe.name == "popularity", recipe.name
        assert recipe.closed_form != (recipe.name in costs), recipe.name
    assert float(costs["lightgcn"]) == pytest.approx(1, abs=0.15)


def test_published_figures_are_of_models_that_the_tables_name(systems: ModuleType) -> None:
    named = {place for table in systems.TABLES.values() for place in table.values()}
    for data, figures in systems.PUBLISHED.items():
        assert figures.keys() <= named
        assert all(0 < ndcg < recall < 0.2 for recall, ndcg in figures.values())
        for model in figures:
            study, runs = systems.best_runs(data, model)
            assert bool(study) == bool(runs)
            assert {(run["data"], run["model"]) for run in runs} <= {(data, model)}


def test_a_year_ends_a_reference(systems: ModuleType) -> None:
    assert systems.year("Wu et al., SGL, SIGIR 2021") == "2021"
    assert systems.year("2021 ideas") == systems.year("-") == ""
