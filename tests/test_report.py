"""The report: one page from runs, whole, self-contained, and obeying nothing that files say."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib", reason="the extra plot is not installed")

from infodcl_geo.cli import main
from infodcl_geo.comparison import Entry
from infodcl_geo.configuration import configure
from infodcl_geo.data.generated import demo
from infodcl_geo.errors import FileError
from infodcl_geo.experiment import run
from infodcl_geo.recommender import Recommender
from infodcl_geo.report import report
from infodcl_geo.report.collect import Material, collect, model_table
from infodcl_geo.report.page import Chapter, Section, Table, render
from infodcl_geo.text import json_ready

HOSTILE = '<script>alert("x")</script> & $x^$ =1'
_VOID = {"meta", "br", "use", "path"}


class Page(HTMLParser):
    """Texts, links, ids and headings; fails where an element is not closed or closed twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: dict[str, str] = {}
        self.cells: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
            if tag == "div":
                self.cells[self.ids[-1]] = []
        if found.get("download"):
            self.links[str(found["download"])] = str(found["href"])
        if tag == "tr":
            next(reversed(self.cells.values())).append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            next(reversed(self.cells.values()))[-1].append(data)

    def file(self, name: str) -> str:
        kind, _, content = self.links[name].partition(";base64,")
        assert kind.startswith("data:")
        return base64.b64decode(content, validate=True).decode()


def save(folder: Path, model: str, name: str, **changes: Any) -> None:
    data = demo(num_users=80, num_items=60, num_interests=4, mean_interactions=12).interactions
    config = configure(model, **changes)
    found = run(data, config, progress=False, device="cpu")
    Recommender.from_run(found, data).save(folder)
    content = {**found.metrics(), "data": name, "generated": True}
    (folder / "metrics.json").write_text(json.dumps(json_ready(content)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    save(folder / "one", "mf", HOSTILE, epochs=2, eval_every=1, dim=8)
    save(folder / "two", "popularity", HOSTILE)
    return folder


@pytest.fixture(scope="module")
def text(runs: Path) -> str:
    return report(runs)


def test_the_page_is_whole(text: str) -> None:
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    tables = {"d1-data", "d1-models", "d1-by-user", "d1-by-item", "d1-beyond"}
    tables |= {f"d1-user-{n}" for n in (1, 2, 3)}
    figures = {"d1-user-degrees", "d1-item-degrees", "d1-time", "d1-validation-epochs", "d1-validation-seconds"}
    figures |= {"d1-loss-1", "d1-by-user-figure", "d1-by-item-figure"}
    assert tables | figures <= set(page.ids)
    assert {f"{name}.csv" for name in tables} | {f"{name}.svg" for name in figures} == set(page.links)
    assert page.tags.count("svg") == page.tags.count("figure") == len(figures)


def test_the_page_needs_nothing_else(text: str) -> None:
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    shown = re.sub(r'href="data:[^"]*"', "", text)
    assert not re.search(r"https?:|//|@import|url\((?!#d1-)", shown)


def test_what_files_say_is_text(text: str) -> None:
    assert "<script>" not in text
    assert HOSTILE in Page(text).texts


@pytest.mark.parametrize("name", ["models", "by-item", "user-1", "data"])
def test_a_csv_holds_its_table(text: str, name: str) -> None:
    page = Page(text)
    rows = list(csv.reader(io.StringIO(page.file(f"d1-{name}.csv"))))
    assert len(rows) > 2
    shown = [[cell for cell in row if cell] for row in rows]
    assert shown == page.cells[f"d1-{name}"]


def test_a_spreadsheet_runs_no_cell_and_reads_numbers() -> None:
    table = Table("t", "T", ["a", "b"], [["=1+1", "-0.5"], ["@x", "1"]])
    assert table.csv() == "a,b\n'=1+1,-0.5\n'@x,1\n"
    page = render("t", "", [Chapter("c", sections=[Section("s", [table])])], ["<b>"])
    assert "&lt;b&gt;" in page


def test_a_figure_is_a_file_of_its_own(text: str) -> None:
    from xml.etree import ElementTree

    file = Page(text).file("d1-by-user-figure.svg")
    assert ElementTree.fromstring(file).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in file
    assert "var(--s0)" in text


def test_the_numbers_are_those_of_the_runs(runs: Path, text: str) -> None:
    content = json.loads((runs / "one" / "metrics.json").read_text())
    headers, *rows = Page(text).cells["d1-models"]
    row = next(row for row in rows if row[0] == "mf")
    assert row[headers.index("test ndcg@20")] == f"{content['test']['ndcg@20']:.4f}"
    assert row[headers.index("valid ndcg@20")] == f"{content['validation']['ndcg@20']:.4f}"
    facts = dict(Page(text).cells["d1-data"])
    train = Recommender.load(runs / "one").train
    assert facts["users"] == "80"
    assert facts["training / validation / test"].startswith(f"{train.size(1)} / ")
    assert facts["pairs in training and validation (leak)"] == "0"


def test_channels_are_told_and_measured(tmp_path: Path) -> None:
    data = demo(num_users=80, num_items=60, num_interests=4, mean_interactions=12).interactions
    save(tmp_path / "runs", "infodcl", "d", epochs=1, dim=8)
    content = json.loads((tmp_path / "runs" / "metrics.json").read_text())
    (told,) = content["channels"].values()
    page = Page(report(tmp_path / "runs", data))
    headers, row = page.cells["d1-channels"]
    assert row[1] == next(iter(content["channels"]))
    assert row[headers.index("items covered")] == f"{100 * told['coverage']:.1f}%"
    headers, row = page.cells["d1-knows"]
    assert float(row[headers.index("times random")]) > 0
    assert row[-1] in ("adds", "adds nothing", "carries nothing")


def test_sensitivity_reads_searches_and_variants(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    save(tmp_path / "runs" / "three", "mf", HOSTILE, epochs=2, eval_every=1, dim=4)
    lines = ["model,start,trial,state,seconds,best_epoch,valid ndcg@20,valid recall@20,options"]
    for trial in range(6):
        options = json.dumps({"lr": 0.001 * 3**trial, "l2": 0.01, "init": "normal"}).replace('"', '""')
        lines.append(f'mf,normal,{trial},complete,1,1,{0.1 + 0.01 * trial},0.2,"{options}"')
    lines.append('mf,normal,6,failed,1,1,,,"{"')
    (tmp_path / "runs" / "settings.csv").write_text("\n".join(lines) + "\n")
    page = Page(report(tmp_path / "runs"))
    labels, *lines = page.cells["d1-variants-1"]  # the empty cell above the options has no text
    assert sorted(labels) == ["mf (1)", "mf (2)"]
    assert [line[0] for line in lines] == ["dim", "valid ndcg@20", "test ndcg@20"]
    assert dict(zip(labels, lines[0][1:], strict=True)) == {"mf (1)": "8", "mf (2)": "4"}
    headers, row = page.cells["d1-trials"]  # l2 was not varied
    assert (row[headers.index("option")], row[headers.index("rank correlation")]) == ("lr", "+1.00")
    assert row[headers.index("best trial's")] == "0.243"
    assert "d1-option-1" in page.ids


def entry(label: str, seed: int, value: float, users: Any = None, **row: Any) -> Entry:
    numbers = {"data": "d", "model": label, "seed": seed, "valid ndcg@20": value, "test ndcg@20": value, **row}
    return Entry(numbers, {} if users is None else {"ndcg@20": users}, label)


def test_spread_and_significance() -> None:
    users = torch.linspace(0, 1, 50).double().numpy()
    entries = [entry("a", 0, 0.5, users), entry("a", 1, 0.7, users), entry("b", 0, 0.2, users / 2)]
    headers, rows, words = model_table(Material("d", entries=entries))
    assert rows[0][headers.index("test ndcg@20")] == "0.6000 ± 0.1414"
    assert headers[-2:] == ["ndcg@20 minus a", "p"]
    assert rows[1][-2:] == ["-0.2500", "< 0.0001"]
    assert "Holm" in words
    without = model_table(Material("d", entries=[*entries, entry("c", 0, 0.1)]))
    assert without[0][-1] == "training seconds"
    assert "No test" in without[2]


def test_other_settings_are_no_seed_of_the_same_model(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    save(tmp_path / "runs" / "three", "mf", HOSTILE, epochs=2, dim=4, seed=1)
    notes: list[str] = []
    (material,) = collect(tmp_path / "runs", notes)
    assert sorted(material.labels) == ["mf (1)", "mf (2)", "popularity"]
    assert any("2 different settings" in note for note in notes)


def test_what_cannot_be_read_is_said(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    for name, content in (("bad", "{"), ("other", "{}")):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "metrics.json").write_text(content)
    notes: list[str] = []
    collect(tmp_path / "runs", notes)
    assert len(notes) == 2
    with pytest.raises(FileError, match="holds no metrics"):
        collect(tmp_path / "runs" / "bad", [])


def test_the_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["report", "--runs", str(runs), "--out", str(out)]) == 0
    Page(out.read_text(encoding="utf-8"))
    assert main(["report", "--runs", str(runs), "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["report"]) == 1
    assert "--runs" in capsys.readouterr().err
    assert main(["report", "--runs", str(runs), "--data", "demo", "--out", str(tmp_path / "b.html")]) == 1
    assert "no run there is of" in capsys.readouterr().err


def test_quick_trains_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = demo(num_users=60, num_items=40, num_interests=4, mean_interactions=10).interactions
    file = tmp_path / "taken.csv"
    file.write_text("user_id,item_id\n" + "".join(f"u{u},{i}\n" for u, i in torch.cat([pairs.train, pairs.test], 1).T))
    words = ["report", "--quick", "--data", str(file), "--epochs", "1", "--out", str(tmp_path / "page.html")]
    assert main(words) == 0
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.cells["d1-models"]) == 6
    assert any(cell.startswith("p") for cell in page.cells["d1-models"][0])
    assert "✓ marks" in "".join(page.texts)
    capsys.readouterr()
    assert main([*words, "--overwrite"]) == 0
    said = capsys.readouterr().err
    assert "5 of 5 runs were already" in said
    assert "[1/5]" not in said


def test_the_demo_has_a_quick_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a newcomer runs first; every part of the page has something to show, or says why it has not."""
    out = tmp_path / "page.html"
    words = ["--quick", "--data", "demo", "--minutes", "0.5", "--epochs", "1", "--out", str(out)]
    assert main(["report", *words]) == 0
    said = capsys.readouterr().err
    assert "[1/5]" in said
    assert "page: data set 1 of 1" in said
    page = Page(out.read_text(encoding="utf-8"))
    for name in ("data", "models", "by-user", "by-item", "beyond", "channels", "knows", "user-1"):
        assert len(page.cells[f"d1-{name}"]) > 1, name
    assert "The data are generated" in "".join(page.texts)


def test_without_matplotlib_one_line_says_so(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", "--runs", str(runs), "--out", "unused.html"]) == 1
    assert "infodcl-geo[plot]" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_overflows_on_a_phone(text: str, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    # A window of Chromium is at least 500 pixels wide, a frame may be narrower. The page's own policy lets no script
    # run, so what measures it is in the frame's copy without that line.
    measure = (
        "<script>onload=()=>{const r=document.documentElement,bad=[...document.querySelectorAll('main *')].filter(e=>"
        "!e.closest('.scroll table')&&e.getBoundingClientRect().right>r.clientWidth+1).length;"
        "const flat=[...document.querySelectorAll('figure>svg')]"
        ".filter(e=>e.getBoundingClientRect().height<100).length;"
        "parent.postMessage(`${r.clientWidth} ${r.scrollWidth} ${bad} ${flat}`,'*')}</script>"
    )
    page = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", f"{measure}</body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        "<script>onmessage=e=>{document.title=e.data}</script>"
        "<iframe src='page.html' style='width:390px;border:0'></iframe>"
    )
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=10000", "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=900, check=True,
    )  # fmt: skip
    measured = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", done.stdout)
    assert measured is not None, done.stdout[:500]
    width, needed, outside, flat = map(int, measured.groups())
    assert width in range(370, 391)
    assert needed <= width
    assert outside == 0
    assert flat == 0
