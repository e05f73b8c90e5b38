"""The documentation: every public name has a docstring, every result a page, and the site builds without a warning."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

import infodcl_geo
from infodcl_geo.cli import main, tune
from infodcl_geo.cli.compare import divided, words_for
from infodcl_geo.cli.parsing import listed, words_of
from infodcl_geo.cli.train import parsed
from infodcl_geo.configuration import configure
from infodcl_geo.models import find_recipe
from infodcl_geo.settings import read_settings, read_variants

ROOT = Path(__file__).resolve().parents[1]
DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"
ROOMS = ("nn", "kernels", "channels", "data", "evaluation", "models", "training")
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/study.yaml"))


@pytest.fixture(scope="session")
def results_pages(doc_script: Callable[[str], ModuleType]) -> dict[str, str]:
    return doc_script("_ext/results").pages(RESULTS)


# ---------------------------------------------------------------------------------------------------------------------
# Docstrings


def public_names() -> Iterator[tuple[str, Any]]:
    for name in infodcl_geo.__all__:
        if name != "__version__":
            yield f"infodcl_geo.{name}", getattr(infodcl_geo, name)
    for room in ROOMS:
        package = importlib.import_module(f"infodcl_geo.{room}")
        for name in getattr(package, "__all__", ()):
            yield f"infodcl_geo.{room}.{name}", getattr(package, name)
        for info in pkgutil.iter_modules(package.__path__):
            if info.name.startswith("_"):
                continue
            module = importlib.import_module(f"infodcl_geo.{room}.{info.name}")
            yield module.__name__, module
            for name, value in vars(module).items():
                if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
                    yield f"{module.__name__}.{name}", value


def lacking(name: str, value: Any) -> Iterator[str]:
    """Names below ``name`` that have no documentation: the object itself, and what a class adds to its bases."""
    if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
        return
    own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    if not own or (inspect.isclass(value) and own.startswith(f"{value.__name__}(")):
        yield name
    if not inspect.isclass(value):
        return
    for member, content in vars(value).items():
        function = content.fget if isinstance(content, property) else getattr(content, "__func__", content)
        if member.startswith("_") or not inspect.isfunction(function) or member in ("forward", "extra_repr"):
            continue
        inherited = any(getattr(getattr(base, member, None), "__doc__", None) for base in value.__mro__[1:])
        stated_by_name = inspect.signature(function).parameters.keys() <= {"self"}  # a property says what it is
        if not function.__doc__ and not inherited and not (isinstance(content, property) and stated_by_name):
            yield f"{name}.{member}"


def test_every_public_name_is_documented() -> None:
    found = sorted({gap for name, value in public_names() for gap in lacking(name, value)})
    assert not found, found


def test_a_gap_would_be_found() -> None:
    class Silent:
        def told(self) -> None:
            """Says what it does."""

        def untold(self) -> None: ...

    assert list(lacking("Silent", Silent)) == ["Silent", "Silent.untold"]


# ---------------------------------------------------------------------------------------------------------------------
# Results


def test_every_folder_of_results_is_a_study() -> None:
    folders = {path.name for path in RESULTS.iterdir() if path.is_dir()}
    assert folders == set(STUDIES)
    assert {path.name for path in RESULTS.iterdir() if path.is_file()} <= {"README.md"}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_what_an_outsider_needs(name: str, doc_script: Callable[[str], ModuleType]) -> None:
    results = doc_script("_ext/results")
    assert re.fullmatch(
        r"(compare|tune|choices|channels|epoch_time|quality|growth|selection|kernels|similarity|inspect|serve|export|memory)"
        r"(_[a-z0-9]+)*",
        name,
    )
    study = yaml.safe_load((RESULTS / name / "study.yaml").read_text("utf-8"))
    assert set(results.REQUIRED) <= study.keys()
    assert set(study["data"]) <= results.PAGES.keys()
    assert study["question"].strip().endswith("?")
    assert all(row.get("source") == "paper" and row.get("paper") for row in study.get("papers", ()))
    for file in study.get("settings", ()):
        assert (RESULTS / name / file).is_file()
    shown = {table["file"] for table in study.get("tables", ())}
    assert shown <= {path.name for path in (RESULTS / name).glob("*.csv")}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/settings.yaml")), ids=lambda path: path.parent.name)
def test_settings_name_options_that_there_are(path: Path) -> None:
    settings = read_settings(path)
    assert settings
    for model, options in settings.items():
        configure(model, **options)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/variants.yaml")), ids=lambda path: path.parent.name)
def test_variants_name_options_that_there_are(path: Path) -> None:
    for model, options in read_variants(path).values():
        configure(model, **options)


def test_no_figure_of_the_first_readme_is_lost(results_pages: dict[str, str]) -> None:
    """Each row of its tables stands in one line of a page, or in a few where it was about several studies."""
    numbers = re.compile(r"\d[\d,]*(?:\.\d+)?")
    lines = [Counter(numbers.findall(line)) for text in results_pages.values() for line in text.splitlines()]
    rows = [line for line in (ROOT / "tests" / "readme_figures.txt").read_text().splitlines() if line[:1] != "#"]
    assert len(rows) > 90
    lost = []
    for row in rows:
        wanted = Counter(row.split())
        for _ in range(3):
            best = max(lines, key=lambda line, wanted=wanted: (line & wanted).total())  # type: ignore[misc]
            wanted -= best
        if wanted:
            lost.append((row, dict(wanted)))
    assert not lost, lost


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def commands() -> list[str]:
    found = [
        c for name in STUDIES for c in yaml.safe_load((RESULTS / name / "study.yaml").read_text("utf-8"))["commands"]
    ]
    for path in [*DOCS.glob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text("utf-8"), flags=re.DOTALL):
            found += block.splitlines()
    return sorted({command for command in found if command.startswith("infodcl-geo ") and "COMMAND" not in command})


@pytest.mark.parametrize("command", commands())
def test_a_command_is_known_to_the_program(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    _, name, *words = shlex.split(command)
    if name in ("train", "compare"):
        for place, word in enumerate(words):
            if word == "--seeds":
                words[place + 1 :] = [w for w in words[place + 1 :] if w not in ("1", "2")]  # all seeds parse alike
            if word == "--settings" and words[place + 1].startswith("runs/"):
                words[place + 1] = str(RESULTS / "tune_begin" / "settings.yaml")  # what the reader has made
        assert main([name, *words, "--print_config"]) == 0, capsys.readouterr().err
    elif name == "tune":
        shared, of_models = divided(words_of(words))
        for model in listed(tune.make_parser().parse_args(shared).models):
            recipe = find_recipe(model)
            parsed([*shared, *words_for(recipe, of_models)], recipe, tune.make_parser)
    else:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert all(word.partition("=")[0] in text for word in words if word.startswith("--")), command


def test_files_that_pages_name_exist() -> None:
    for path in [*DOCS.glob("*.md"), ROOT / "CONTRIBUTING.md", RESULTS / "README.md"]:
        for name in re.findall(r"`((?:benchmarks|examples|kernels|tests|docs)/[\w./]+)`", path.read_text("utf-8")):
            assert (ROOT / name).exists() or "NAME" in name, (path.name, name)


@pytest.mark.parametrize(
    "page", sorted(path.stem for path in DOCS.glob("*.md") if "```python" in path.read_text("utf-8"))
)
def test_python_of_a_page_runs(page: str, tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), flags=re.DOTALL))
    lines = [f"user{u},{i}" for u in range(40) for i in range(80) if i % 4 == u % 4 and (u + i) % 5]
    (tmp_path / "ratings.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# The site


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_every_page_is_reachable(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("pydata_sphinx_theme")
    pytest.importorskip("myst_parser")
    pytest.importorskip("sphinx_design")
    out = tmp_path / "html"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "-d",
            str(tmp_path / "trees"),
            str(DOCS),
            str(out),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "INFODCL_GEO_DOCS_FAST": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(out).as_posix(): path.read_text("utf-8") for path in out.rglob("*.html")}
    pages = {name: text for name, text in pages.items() if not name.startswith("_static")}
    links = {name: links_of(name, text) for name, text in pages.items()}
    broken = {
        (name, target, anchor)
        for name, found in links.items()
        for target, anchor in found
        if not (out / target).exists() or (anchor and target in pages and f'id="{anchor}"' not in pages[target])
    }
    assert not broken, broken
    reached, waiting = {"index.html"}, ["index.html"]
    while waiting:
        new = {target for target, _ in links[waiting.pop()]} & pages.keys() - reached
        reached |= new
        waiting += new
    assert pages.keys() - reached <= {"genindex.html", "search.html", "py-modindex.html"}


def links_of(page: str, text: str) -> set[tuple[str, str]]:
    """Links of a page inside the site, as target and anchor."""
    found = set()
    for link in re.findall(r'(?:href|src)="([^"]+)"', text):
        if re.match(r"[a-z]+:|//", link):
            continue
        path, _, anchor = link.partition("#")
        path = path.partition("?")[0]
        target = page if not path else os.path.normpath((Path(page).parent / path).as_posix())
        found.add((unquote(target), unquote(anchor)))
    return found
