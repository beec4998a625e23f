"""The page of what runs left: what is on it, and how browsers show it."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fbnet_mobile.api.report import report
from fbnet_mobile.arch import Architecture
from fbnet_mobile.cost.constraint import latency_constraint
from fbnet_mobile.documents import write_json
from fbnet_mobile.errors import UserError
from fbnet_mobile.latency.table import BLOCK, INVOCATION, NETWORK, ROUND, Conditions, LatencyTable, Measurement
from fbnet_mobile.search.results import Met, Searched, SearchEpoch
from fbnet_mobile.space import load_space

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "<script>document.title='evil'</script>\"&'"
CONDITIONS = Conditions("host", "AMD <EPYC>", "litert", "2.3.0", 1, "fp32", "min", "small", "2026-01-01")
HEALTH = "drift=0.02 cores=2 load_1m=1.5 least_mhz=unknown most_mhz=unknown temperature_c=unknown steal_percent=0"


def measured(latency_us: float) -> Measurement:
    return Measurement(latency_us, *[latency_us] * 5, runs=90, rounds=4, uncertainty=0.004)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a search, a training, exports and a benchmark leave."""
    root = tmp_path_factory.mktemp("page") / "runs"
    space = load_space("small")
    rng = random.Random(3)
    rows = {LatencyTable.row_key(INVOCATION): measured(0.5)}
    for block in space.candidates():
        rows[LatencyTable.row_key(BLOCK, [block])] = measured(0.5 + block.macs / 5e4)
    for number in range(6):
        network = space.architecture(space.draw(rng))
        us = 0.5 + sum(block.macs / 5e4 for block in network.blocks)
        rows[LatencyTable.row_key(NETWORK, network.blocks)] = measured(us * (1 + 0.01 * (number % 3 - 1)))
    rows[ROUND, f"round=0 {HEALTH} governor=unknown affinity=0-1"] = measured(20.0)
    table = LatencyTable(CONDITIONS, rows)
    (root / "search").mkdir(parents=True)
    table.save(root / "host.csv")

    assignment = space.draw(rng)
    constraint = latency_constraint(space, table, 80.0)
    columns = {"temperature": 1.0, "expected_latency_us": 90.0, "multiplier_latency_us": 0.2, "confidence": 0.5}
    history = [SearchEpoch(epoch, 2.0 / epoch, 2.1 / epoch, 0.1 * epoch, 9.0, columns) for epoch in (1, 2, 3)]
    found = Searched(
        space="small",
        architecture=space.architecture(assignment, "small-80us", f"found for {EVIL}"),
        assignment=assignment,
        most_likely=assignment,
        constraints=(Met("latency_us", 80.0, constraint.total(space, assignment), 85.0, {}),),
        history=tuple(history),
    )
    found.save(root / "search")
    _csv(root / "search" / "log.csv", [row.columns() for row in history])
    probabilities = {
        f"{name}={option}": 1 / len(options)
        for name, options in space.variables.items()
        if len(options) > 1
        for option in options
    }
    _csv(root / "search" / "probabilities.csv", [{"epoch": epoch, **probabilities} for epoch in (1, 2, 3)])
    (root / "search" / "args.yaml").write_text(
        f'# fbnet-search of fbnet-mobile 0.1.0; again: fbnet-search --config args.yaml\ndata: "{EVIL[:8]}"\n'
    )

    (root / "train").mkdir()
    training = [
        {"epoch": e, "learning_rate": 0.1, "train_loss": 2 / e, "train_accuracy": 0.2 * e, "val_accuracy": 0.25 * e}
        for e in (1, 2, 3)
    ]
    _csv(root / "train" / "log.csv", training)
    names = [EVIL, "glass", "paper"]
    scores = {"images": 10, "precision": 0.9, "recall": 0.8, "f1": 0.85}
    mistake = {"number": 1, "image": f"a/{EVIL}.jpg", "true": EVIL, "predicted": "glass", "probability": 0.93}
    evaluation = {
        "images": 30,
        "accuracy": 0.8,
        "classes": [{"name": name, **scores} for name in names],
        "confusion": [[8, 2, 0], [1, 9, 0], [0, 3, 7]],
        "mistakes": [mistake],
    }
    (root / "train" / "evaluation.json").write_text(json.dumps(evaluation))

    facts = {"cpu": "AMD EPYC", "cores": 2, "memory_mb": 1, "operating_system": "Linux", "governor": "x"}
    models = [_model(f"{EVIL[:8]}.tflite", 80.0, 0.9, 78.0), _model("b.onnx", 60.0, 0.85, None)]
    times = [{"block": block.key, "measured_us": n + 0.25} for n, block in enumerate(found.architecture.blocks, 30)]
    models[1] |= {"blocks": times, "between_us": 4.75}
    write_json(
        root / "benchmark.json", {"kind": "fbnet-mobile benchmark", "device": "host", "facts": facts, "models": models}
    )
    export = {"path": "b.onnx", "format": "onnx", "precision": "fp32", "relative_difference": 2e-6, "size": 9}
    write_json(
        root / "b.onnx.export.json", {"kind": "fbnet-mobile export", "file": export, "command": "fbnet-export x"}
    )
    (root / "broken.json").write_text("{")
    return root


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def _model(name: str, us: float, accuracy: float, predicted_us: float | None) -> dict[str, Any]:
    runtime = "litert" if name.endswith("tflite") else "onnxruntime"
    fields = {"model": name, "precision": "fp32", "runtime": runtime, "runtime_version": "2", "threads": 1}
    times = {"latency_us": us, "min_us": us, "median_us": us}
    return {
        **fields,
        "size_bytes": 120_000,
        "latency": times,
        "predicted_us": predicted_us,
        "accuracy": accuracy,
        "images": 90,
    }


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    path = runs.parent / "report.html"
    shown = report(runs=(runs,), output=path)
    assert (shown.searches, shown.trainings, shown.tables, shown.benchmarks) == (1, 1, 1, 1)
    assert len(shown.left_out) == 1
    assert "broken.json" in shown.left_out[0]
    return path


def test_a_page_is_one_small_file_with_every_number_in_a_table_and_every_text_escaped(page: Path) -> None:
    text = page.read_text()
    assert len(text) < 3e6
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    visible = text.partition("<body>")[2].partition('<script type="application/json"')[0]
    assert "<script" not in visible
    for said in ("90.00%", "80.0 us", "60.0 us", "2.0e-06", "small-80us", "-2.5%", "stage1.block1", "fbnet-export x"):
        assert said in visible, said
    assert visible.count("&lt;script&gt;document.title") >= 4
    assert re.search(r"b\.onnx \(onnxruntime\).*?60\.0 us and up", visible)


def test_what_is_not_there_is_left_out_and_nothing_at_all_is_refused(runs: Path, tmp_path: Path) -> None:
    shown = report(runs=(runs / "train",), output=tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert (shown.searches, shown.trainings) == (0, 1)
    assert "Confusion matrix" in text
    assert "The network" not in text
    (tmp_path / "empty").mkdir()
    for path, said in ((tmp_path / "empty", "is empty"), (tmp_path / "none", "does not exist")):
        with pytest.raises(UserError, match=said):
            report(runs=(path,), output=tmp_path / "x.html")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="nothing to report on"):
        report(runs=(tmp_path / "notes.txt",), output=tmp_path / "x.html")
    with pytest.raises(UserError):
        report(runs=(runs,), output=tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("train/evaluation.json", '"confusion": [[8, 2, 0]', '"confusion": [[8]'),
        ("train/evaluation.json", '"recall": 0.8', '"recall": "good"'),
        ("train/log.csv", "0.75", "much"),
        ("benchmark.json", '"latency_us": 80.0', '"latency_us": null'),
        ("search/result.json", '"limit": 80.0', '"limit": 0'),
        ("search/architecture.yaml", "kind: head", "kind: tail"),
        ("host.csv", ",80", ",-80"),
    ],
)
def test_a_damaged_file_is_left_out_and_named(runs: Path, tmp_path: Path, file: str, old: str, new: str) -> None:
    copy = shutil.copytree(runs, tmp_path / "runs")
    text = (copy / file).read_text()
    (copy / file).write_text(text.replace(old, new, 1) if old in text else f"{text},{new}")
    shown = report(runs=(copy,), output=tmp_path / "r.html")
    assert len(shown.left_out) == 2, "broken.json is the other"
    assert any(str(copy / file).rpartition("/")[0] in line and "\n" not in line for line in shown.left_out)


def test_the_drawing_has_every_block_and_what_was_left_out(runs: Path, page: Path) -> None:
    network = Architecture.load(runs / "search" / "architecture.yaml")
    drawing = page.read_text().partition("<svg")[2].partition("</svg>")[0]
    assert drawing.count('class="block ') == len(network.blocks)
    left_out = len(load_space("small").positions) - len(network.blocks)
    assert drawing.count(">skipped<") == left_out
    assert drawing.count('class="time"') == drawing.count('class="time measured"') == len(network.blocks)
    blocks = page.read_text().partition("Every block as a table")[2].partition("</table>")[0]
    last_column = re.findall(r">([\d.]+) us</td></tr>", blocks)
    assert last_column == [f"{number + 0.25:.1f}" for number, _ in enumerate(network.blocks, 30)]
    assert "onnxruntime saw in b.onnx, 4.8 us between blocks" in page.read_text()
    assert drawing.count('class="se"') == sum(
        block.model_dump().get("se_channels") is not None for block in network.blocks
    )


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium; tools/need_chromium.sh installs it")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser: "Browser", path: Path, **how: Any) -> "tuple[Page, list[str]]":
    """The page when its plots are drawn, and what was wrong."""
    tab = browser.new_page(**how)
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
    tab.goto(path.as_uri())
    return tab, wrong


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_a_browser_draws_it_without_a_complaint_and_answers_the_pointer(
    browser: "Browser", page: Path, width: int, scheme: Any
) -> None:
    tab, wrong = opened(browser, page, viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.wait_for_selector("html[data-drawn]", timeout=120_000)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))")
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert tab.title() == "small-80us · fbnet-mobile"

    tab.fill("#budget", "70")
    assert tab.inner_text("#answer") == "b.onnx (onnxruntime): 85.00% in 60.0 us on host"
    tab.fill("#budget", "10")
    assert tab.inner_text("#answer") == "None of these is that fast."
    tab.select_option("#choice", "stage3.out_channels")
    tab.wait_for_function("document.querySelectorAll('#plot-probability .scatterlayer .trace').length == 5")

    plot = tab.locator("#plot-tradeoff")
    plot.scroll_into_view_if_needed()
    point = plot.locator(".scatterlayer .trace .points path").first
    box = point.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector("#plot-tradeoff .hoverlayer .hovertext", timeout=30_000)
    assert re.search(r"[68]0\.00 us", plot.locator(".hovertext").first.text_content() or "")
    # On paper it is light, whatever the screen.
    tab.emulate_media(media="print")
    tab.wait_for_function(
        "getComputedStyle(document.querySelector('#plot-tradeoff .xtick text')).fill == 'rgb(68, 68, 68)'"
    )
    assert wrong == []
    tab.close()


def test_without_scripts_the_tables_are_there(browser: "Browser", page: Path) -> None:
    tab, wrong = opened(browser, page, java_script_enabled=False)
    assert "90.00%" in tab.inner_text("#trade-off")
    assert not tab.locator(".plot").first.is_visible()
    assert wrong == []
    tab.close()
