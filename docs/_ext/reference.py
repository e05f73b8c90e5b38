"""Directives that print what the code declares: ``models``, ``layouts``, ``named-data``, ``commands``."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


def models_table() -> str:
    """The table of models from their recipes."""
    from infodcl_geo.models import RECIPES

    rows = []
    for recipe in RECIPES:
        needs = (
            "channels of metadata"
            if recipe.reads_channels
            else "pretrained vectors"
            if recipe.needs_vectors
            else "interactions"
        )
        rows.append([f"`{recipe.name}`", recipe.summary, recipe.paper, recipe.kind, needs])
    return _table(["name", "what it is", "paper", "kind", "what it needs"], rows)


def needs(recipe: Any) -> str:
    """What a model needs beside interactions."""
    if recipe.reads_channels:
        return "channels"
    return "pretrained vectors" if recipe.needs_vectors else "nothing"


def models_in_short() -> str:
    """The models with their papers, those of one kind and one need in a row."""
    from infodcl_geo.models import RECIPES

    groups: dict[tuple[str, str], list[str]] = {}
    for recipe in RECIPES:
        paper = "" if recipe.paper == "-" else f" ({recipe.paper})"
        groups.setdefault((recipe.kind, needs(recipe)), []).append(f"`{recipe.name}`{paper}")
    return _table(
        ["kind", "needs beside interactions", "models (paper)"],
        [[*key, "; ".join(names)] for key, names in groups.items()],
    )


def layouts_table() -> str:
    """The public layouts that are told from a file's content."""
    from infodcl_geo.data.layouts import LAYOUTS

    return _table(
        ["data set", "files", "beside `--data`"],
        [[name, files, f"`{more}`" if more else ""] for name, files, more in LAYOUTS],
    )


def named_table() -> str:
    """The data sets that are downloaded by name."""
    from infodcl_geo.data.named import NAMED

    return ", ".join(f"`{name}`" for name in NAMED) + "."


def commands_table() -> str:
    """The subcommands."""
    from infodcl_geo.cli import COMMANDS

    return _table(["command", "what it does"], [[f"`infodcl-geo {name}`", text] for name, text in COMMANDS.items()])


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)])


WHAT = {"models": models_table, "layouts": layouts_table, "named-data": named_table, "commands": commands_table}


class Declared(SphinxDirective):
    """Markdown that a function makes of what the code declares."""

    def run(self) -> list[nodes.Node]:
        text = WHAT[self.name]()
        container = nodes.container(classes=["wide"])
        self.state.nested_parse(StringList(text.splitlines(), source=self.name), 0, container)
        return [container]


def setup(app: Any) -> dict[str, bool]:
    for name in WHAT:
        app.add_directive(name, Declared)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
