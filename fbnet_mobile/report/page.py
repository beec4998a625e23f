"""What runs left as one page of HTML that needs nothing else: tables and a drawing, and plots where scripts run."""

import base64
import functools
import gzip
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from fbnet_mobile import __version__
from fbnet_mobile.arch import Architecture
from fbnet_mobile.cost.quantity import QUANTITIES
from fbnet_mobile.errors import FbnetError, UserError
from fbnet_mobile.files import write_whole
from fbnet_mobile.report import charts, html
from fbnet_mobile.report.collect import Found, Rows, Search, Training, collect
from fbnet_mobile.report.console import latency
from fbnet_mobile.report.drawing import draw, places

MARK = "<!-- fbnet-mobile report -->"


def is_report(path: Path) -> bool:
    """Whether a file is an earlier report, which may be replaced."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(200)


def write_report(path: Path, runs: Sequence[Path]) -> Found:
    """Write what runs left into one HTML file.

    Args:
        path: of the file.
        runs: see :func:`fbnet_mobile.report.collect.collect`.

    Returns:
        What the page shows.

    Raises:
        FbnetError: there is nothing to show, or the file cannot be written, or is something else.
    """
    found = collect(runs)
    text = page(found)
    with write_whole(path, replaces=is_report) as partial:
        partial.write_text(text, encoding="utf-8")
    return found


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: in links.
        title: above it.
        lead: what it shows, in a sentence.
        body: HTML.
    """

    name: str
    title: str
    lead: str
    body: str


@dataclass(frozen=True)
class Point:
    """A model file that was timed.

    Attributes:
        name: of the file, with its runtime.
        kind: found, random, published or imported.
        us: measured.
        predicted_us: by the table; None without one.
        accuracy: on test images, 0 to 1; None if it was not judged.
        images: how many those were.
        model: the record.
        device: that it was timed on.
    """

    name: str
    kind: str
    us: float
    predicted_us: float | None
    accuracy: float | None
    images: int | None
    model: Mapping[str, Any]
    device: str


class Page:
    """The parts of a page, and the plots in them."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.charts: list[dict[str, Any]] = []
        self.points = list(_points(found))
        times = [point.us for point in self.points] + [
            us for table in found.tables.values() for _, us in table.networks()
        ]
        self.unit, self.scale = ("us", 1.0) if max(times, default=0.0) < 1e3 else ("ms", 1e3)
        self.probabilities: dict[str, Any] = {}

    def plot(self, name: str, data: Sequence[Mapping[str, Any]], title: str = "", **layout: Any) -> str:
        """A place for a plot; ``--c1`` and the like stand for colours of the page."""
        self.charts.append({"id": f"plot-{name}", "data": list(data), "layout": layout})
        caption = f"<h3>{escape(title)}</h3>" if title else ""
        return f'<div>{caption}<div class="plot" id="plot-{name}"></div></div>'

    def curves(
        self,
        name: str,
        title: str,
        log: Rows,
        columns: Iterable[str],
        number_format: str,
        yaxis: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> str:
        """A plot of those columns of a log that there are, over its epochs; nothing where there are none."""
        epochs = log.get("epoch", [])
        data = [
            charts.line(
                epochs, log[column], (names or {}).get(column, column.replace("_", " ")), f"--c{n}", number_format
            )
            for n, column in enumerate((column for column in columns if column in log), start=1)
        ]
        return self.plot(name, data, title=title, xaxis=charts.epochs(epochs), yaxis=yaxis or {}) if data else ""

    def sections(self) -> Iterator[Section]:
        """Those for which there is something."""
        if self.points:
            yield self.trade_off()
        for number, search in enumerate(self.found.searches, start=1):
            several = len(self.found.searches) > 1
            yield self.network(search, f"network{number}", f": {search.architecture.name}" if several else "")
        if self.found.tables or any(point.predicted_us for point in self.points):
            yield self.prediction()
        for number, search in enumerate(self.found.searches, start=1):
            if search.log:
                yield self.search(search, number)
        for number, training in enumerate(self.found.trainings, start=1):
            yield self.training(training, number)
        if self.points or self.found.exports or any(self.models()):
            yield self.files()
        yield self.commands()

    def models(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        """Every record of fbnet-benchmark, with its device."""
        for benchmark in self.found.benchmarks.values():
            for model in benchmark["models"]:
                yield model, str(benchmark["device"])

    def cards(self) -> Iterator[tuple[str, str]]:
        """The few numbers that matter most: a value and what it is."""
        for search in self.found.searches[:1]:
            for limit in search.result["constraints"]:
                quantity = _quantity(limit["name"])
                yield (
                    _readable(quantity, limit["value"]),
                    f"predicted {quantity}, of {_readable(quantity, limit['limit'])}",
                )
        judged = [point for point in self.points if point.accuracy is not None]
        if judged:
            most = max(self.targets_us(), default=math.inf)
            within = [point for point in judged if point.us <= 1.02 * most] or judged
            best = max(within, key=lambda point: (point.accuracy or 0, -point.us))
            yield f"{best.accuracy:.1%}", f"accuracy on {best.images:,} test images ({best.name})"
        elif scored := [training.evaluation for training in self.found.trainings if training.evaluation]:
            best_of = max(scored, key=lambda evaluation: float(evaluation["accuracy"]))
            yield f"{best_of['accuracy']:.1%}", f"accuracy on {best_of['images']:,} test images"
        elif curves := [
            training.log["val_accuracy"] for training in self.found.trainings if training.log.get("val_accuracy")
        ]:
            yield f"{max(map(max, curves)):.1%}", "accuracy on validation images"
        if self.points:
            fastest = min(self.points, key=lambda point: point.us)
            yield latency(fastest.us), f"measured on {fastest.device} ({fastest.name})"
        for search in self.found.searches[:1]:
            network = search.architecture
            yield f"{network.macs / 1e6:.2f} M", f"MACs, {network.params / 1e6:.3f} M parameters"
            yield f"{network.resolution} px", f"input; {len(network.blocks)} blocks"

    def trade_off(self) -> Section:
        """Accuracy against measured latency."""
        judged = sorted((p for p in self.points if p.accuracy is not None), key=lambda p: (p.us, -(p.accuracy or 0)))
        front = _front(judged)
        rows = [
            [
                point.name,
                point.kind,
                latency(point.us),
                "" if point.accuracy is None else f"{point.accuracy:.2%}",
                f"{latency(point.us)} and up" if point in front else "",
            ]
            for point in sorted(self.points, key=lambda point: point.us)
        ]
        best = [number for number, point in enumerate(sorted(self.points, key=lambda p: p.us)) if point in front]
        table = html.table(["file", "made how", "latency", "accuracy", "the best for"], rows, texts=(0, 1), best=best)
        if not judged:
            return Section("trade-off", "Latency", "Every file that was timed on the device.", table)
        kinds: dict[str, list[Point]] = {}
        for point in judged:
            kinds.setdefault(point.kind, []).append(point)
        data: list[Mapping[str, Any]] = [
            {
                "type": "scatter",
                "mode": "lines",
                "x": [point.us / self.scale for point in front],
                "y": [point.accuracy for point in front],
                "name": "front",
                "line": {"color": "--faint", "width": 1.5, "shape": "hv"},
                "hoverinfo": "skip",
            }
        ]
        for number, (kind, points) in enumerate(kinds.items(), start=1):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+text" if len(front) <= 8 else "markers",
                    "x": [point.us / self.scale for point in points],
                    "y": [point.accuracy for point in points],
                    # Only those of the front, which do not lie on one another.
                    "text": [escape(point.name.partition(" ")[0]) if point in front else "" for point in points],
                    "textposition": "bottom center",
                    "cliponaxis": False,
                    "name": kind,
                    "customdata": [[escape(point.name), point.images] for point in points],
                    "marker": {"color": f"--c{number}", "size": 12},
                    "hovertemplate": "<b>%{customdata[0]}</b><br>%{x:.4g} "
                    f"{self.unit}<br>%{{y:.2%}} of %{{customdata[1]}} images<extra></extra>",
                }
            )
        targets = self.targets_us()
        shapes = [
            {
                "type": "line",
                "x0": us / self.scale,
                "x1": us / self.scale,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": "--c2", "dash": "dash", "width": 1.5},
            }
            for us in targets
        ]
        notes = [
            {
                "x": us / self.scale,
                "y": 1,
                "yref": "paper",
                "text": f"target {latency(us)}",
                "showarrow": False,
                "xanchor": "left",
                "xshift": 4,
                "yanchor": "top",
                "font": {"color": "--c2"},
            }
            for us in targets
        ]
        least, most = min(p.accuracy or 0 for p in judged), max(p.accuracy or 0 for p in judged)
        pad = max(0.01, 0.25 * (most - least))
        longest = max([p.us for p in judged] + targets) / self.scale
        plot = self.plot(
            "tradeoff",
            data,
            xaxis={"title": {"text": f"measured latency, {self.unit}"}, "range": [0, 1.15 * longest]},
            yaxis={
                "title": {"text": "test accuracy"},
                "tickformat": ".1%",
                "range": [max(0.0, least - pad), min(1.02, most + pad)],
            },
            shapes=shapes,
            annotations=notes,
            height=420,
        )
        first = (targets[0] if targets else front[-1].us) / self.scale
        ask = (
            '<div class="asks"><label for="budget">Which one for</label>'
            f'<input id="budget" type="number" min="0" step="any" value="{first:.4g}"> {self.unit}?'
            '<output id="answer" for="budget"></output></div>'
        )
        return Section(
            "trade-off",
            "Accuracy against latency",
            "Every file that was timed on the device and judged on test images. The front is what no other file beats "
            "in both.",
            f"{plot}{ask}{table}",
        )

    def timed_by_block(self, network: Architecture) -> Mapping[str, Any] | None:
        """A file of this network whose blocks were timed one by one."""
        keys = [block.key for block in network.blocks]
        for point in self.points:
            if keys == [time["block"] for time in point.model["blocks"]]:
                return point.model
        return None

    def targets_us(self) -> list[float]:
        """Latencies that searches were asked for."""
        return sorted(
            {
                limit["limit"]
                for search in self.found.searches
                for limit in search.result["constraints"]
                if str(limit["name"]).startswith("latency")
            }
        )

    def network(self, search: Search, name: str, of: str) -> Section:
        """The network drawn."""
        network, times, fixed = search.architecture, {}, 0.0
        table_name = runtime = ""
        for path, table in self.found.tables.items():
            if not table.missing(network.blocks):
                times = {block.key: us for block, us in table.by_block(network)}
                table_name, runtime, fixed = path.name, table.conditions.runtime, table.fixed_us
                break
        timed = self.timed_by_block(network)
        measured_us = [float(time["measured_us"]) for time in timed["blocks"]] if timed else []
        drawn = places(network, search.space, search.result["assignment"], times, measured_us)
        key = [
            ('<i style="background:var(--c3)"></i>', "convolution"),
            ('<i style="background:var(--c1)"></i>', "inverted residual"),
            ('<i style="background:var(--c4)"></i>', "head"),
            ('<i class="round" style="background:var(--c2)"></i>', "squeeze-excite"),
            ('<i class="dashed"></i>', "the largest that the space has there"),
        ]
        if times:
            key.append(('<i style="background:var(--c2);opacity:.8"></i>', "predicted time, us"))
        if timed:
            key.append(('<i style="background:var(--c5);opacity:.8"></i>', "measured time, us"))
        legend = "".join(f"<span>{mark}{text}</span>" for mark, text in key)
        total = sum(times[block.key] for block in network.blocks) if times else 0.0
        rows = []
        for place in drawn:
            if place.block is None:
                rows.append([place.name, "left out", "", "", "", "", "", ""])
                continue
            block, us = place.block, place.predicted_us
            fields = block.model_dump()
            marks = [
                f"{fields['kernel_size']}×{fields['kernel_size']}" if fields.get("kernel_size") else "",
                "squeeze-excite" if fields.get("se_channels") else "",
                str(fields.get("activation") or ""),
            ]
            rows.append(
                [
                    place.name,
                    ", ".join(filter(None, [block.kind.replace("_", " "), *marks])),
                    f"{block.in_channels} → {block.out_channels}",
                    f"{block.resolution} → {block.out_resolution}",
                    f"{block.macs / 1e6:.2f} M",
                    "" if us is None else f"{us:.1f} us",
                    "" if us is None or not total else f"{us / total:.0%}",
                    "" if place.measured_us is None else f"{place.measured_us:.1f} us",
                ]
            )
        head = ["place", "block", "channels", "pixels", "MACs", "predicted", "share", "measured"]
        if not timed:  # a column without anything
            head, rows = head[:-1], [row[:-1] for row in rows]
        listed = html.table(head, rows, texts=(0, 1))
        said = (
            f" Times are what the table {escape(table_name)} predicts for {escape(runtime)}, {fixed:.1f} us of "
            "invocation besides."
            if times
            else ""
        )
        if timed:
            said += (
                f" Measured times are what the profiler of {escape(str(timed['runtime']))} saw in "
                f"{escape(Path(timed['model']).name)}, {timed['between_us'] or 0.0:.1f} us between blocks "
                "besides, its own work in them: compare shares."
            )
        body = (
            f'<div class="scroll">{draw(drawn)}</div><div class="key">{legend}</div>'
            f'<p class="note">Width is output channels, height is output pixels, both by the square root.{said}</p>'
            f"<details><summary>Every block as a table</summary>{listed}</details>"
        )
        return Section(
            name,
            f"The network{escape(of)}",
            escape(network.description or network.name) + ".",
            body,
        )

    def prediction(self) -> Section:
        """Predicted against measured, and how far tables can be trusted."""
        data: list[Mapping[str, Any]] = []
        rows = []
        bands: list[float] = []
        for number, (path, table) in enumerate(self.found.tables.items(), start=1):
            pairs = []
            for blocks, measured_us in table.networks():
                if not table.missing(blocks):
                    predicted = table.fixed_us + sum(map(table.block_us, blocks))
                    pairs.append((measured_us / self.scale, predicted / self.scale))
            bands += [value for pair in pairs for value in pair]
            data.append(charts.markers(pairs, f"random networks of {path.name}", f"--c{(number - 1) % 6 + 1}", 7))
            rows.append(_health(path, table))
        pairs = [
            (point.us / self.scale, point.predicted_us / self.scale) for point in self.points if point.predicted_us
        ]
        names = [point.name for point in self.points if point.predicted_us]
        if pairs:
            bands += [value for pair in pairs for value in pair if value]
            data.append(charts.markers(pairs, "files of fbnet-benchmark", "--c2", 12, names))
        body = ""
        if bands:
            low, high = 0.88 * min(bands), 1.12 * max(bands)
            # Small networks are not to lie in a corner.
            axis = {"type": "log", "nticks": 8, "range": [math.log10(low), math.log10(high)]}
            for share, opacity in ((0.1, 0.10), (0.05, 0.16)):
                data.insert(0, charts.band(low, high, share, opacity))
            body += self.plot(
                "prediction",
                data,
                xaxis={"title": {"text": f"measured, {self.unit}"}, **axis},
                yaxis={"title": {"text": f"predicted, {self.unit}"}, **axis},
                height=440,
            )
        errors = [
            [
                point.name,
                latency(point.us),
                latency(point.predicted_us),
                f"{point.predicted_us / point.us - 1:+.1%}",
            ]
            for point in self.points
            if point.predicted_us
        ]
        if errors:
            body += html.table(["file", "measured", "predicted", "error"], errors, texts=(0,))
        if rows:
            head = [
                "table",
                "device, runtime",
                "blocks",
                "mean error",
                "within 5 %",
                "repeats to",
                "drift",
                "load",
                "measured",
            ]
            body += f"<h3>The table's health</h3>{html.table(head, rows, texts=(0, 1))}"
            body += (
                '<p class="note">Mean error: on the table’s own whole networks, each left out of the calibration. '
                "Repeats to: difference between halves of the rounds, median over blocks. Drift: by how much a "
                "reference block was slower than at its best within a round. Load: programs that ran meanwhile.</p>"
            )
            warned = [
                f"{path.name}: {warning}" for path, table in self.found.tables.items() for warning in table.warnings()
            ]
            body += html.bullets(warned)
        return Section(
            "prediction",
            "Predicted against measured",
            "What the latency table predicts for whole networks, and what they take. Bands are 5 and 10 %.",
            body,
        )

    def search(self, search: Search, number: int) -> Section:
        """How a search went."""
        log = search.log
        epochs = log.get("epoch", [])
        body = ""
        costs = [
            (name.removeprefix("expected_"), values) for name, values in log.items() if name.startswith("expected_")
        ]
        limits = {str(each["name"]): float(each["limit"]) for each in search.result["constraints"]}
        plots = []
        if costs:
            data = [
                charts.line(
                    epochs, [v / limits[name] for v in values], _quantity(name).replace("_", " "), f"--c{n}", ".0%"
                )
                for n, (name, values) in enumerate(costs, start=1)
                if limits.get(name)
            ]
            line = {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": 1,
                "y1": 1,
                "line": {"color": "--c5", "dash": "dash"},
            }
            plots.append(
                self.plot(
                    f"cost{number}",
                    data,
                    title="Expected cost, of its limit",
                    xaxis=charts.epochs(epochs),
                    yaxis={"tickformat": ".0%", "range": [0, 1.1 * max(1.0, *(y for each in data for y in each["y"]))]},
                    shapes=[line],
                )
            )
        moving = [name for name in log if name.startswith("multiplier_") or name == "temperature"]
        judged = ("architecture_accuracy", "confidence")
        from_zero, to_one = {"rangemode": "tozero"}, {"tickformat": ".0%", "range": [0, 1.02]}
        plots += [
            self.curves(f"multiplier{number}", "Multiplier and temperature", log, moving, ".3g", from_zero),
            self.curves(f"loss{number}", "Cross-entropy", log, ("weight_loss", "architecture_loss"), ".3f", from_zero),
            self.curves(
                f"share{number}",
                "Accuracy on the architecture's images, and confidence",
                log,
                judged,
                ".1%",
                to_one,
            ),
        ]
        body += f'<div class="pair">{"".join(plots)}</div>'
        body += self.choices(search, number)
        last = {name: values[-1] for name, values in log.items() if values}
        numbers = [[name.replace("_", " "), _significant(value)] for name, value in last.items()]
        listed = html.table(["", "at the end"], numbers, texts=(0,))
        body += f"<details><summary>The last epoch in numbers</summary>{listed}</details>"
        several = f": {search.folder.name}" if len(self.found.searches) > 1 else ""
        return Section(
            f"search{number}",
            f"The search{escape(several)}",
            f"{len(epochs)} epochs in space {escape(str(search.result['space']))}. A multiplier grows while the "
            "expected cost is above its limit; the temperature of the samples falls.",
            body,
        )

    def choices(self, search: Search, number: int) -> str:
        """The probability of every option at the end, and over time for one choice."""
        options: dict[str, dict[str, Sequence[float]]] = {}
        for column, values in search.probabilities.items():
            choice, equals, option = column.rpartition("=")
            if equals and values:
                options.setdefault(choice, {})[option] = values
        if not options:
            return ""
        rows = []
        for choice, found in options.items():
            taken = str(search.result["assignment"].get(choice))
            bars = "".join(html.share(option, values[-1], taken=option == taken) for option, values in found.items())
            rows.append(f'<tr><td>{escape(choice)}</td><td><div class="options">{bars}</div></td></tr>')
        table = f'<div class="scroll"><table class="choices">{"".join(rows)}</table></div>'
        asks = ""
        if number == 1:
            self.probabilities = {
                choice: {"epochs": search.probabilities.get("epoch", []), "options": found}
                for choice, found in options.items()
            }
            items = "".join(f"<option>{escape(choice)}</option>" for choice in options)
            asks = (
                '<div class="asks"><label for="choice">How the probability of</label>'
                f'<select id="choice">{items}</select> moved'
                '</div><div class="plot" id="plot-probability"></div>'
            )
        return (
            f"<h3>What was decided</h3>{asks}<details open><summary>Every choice at the end</summary>"
            '<p class="note">Width is probability; the stronger one is what the network has, which is not the most '
            f"probable where that was too slow.</p>{table}</details>"
        )

    def training(self, training: Training, number: int) -> Section:
        """Curves, confusion matrix, worst mistakes."""
        log = training.log
        epochs = log.get("epoch", [])
        names = {"train_accuracy": "training, augmented", "val_accuracy": "validation"}
        shares = self.curves(f"accuracy{number}", "Accuracy", log, names, ".2%", {"tickformat": ".0%"}, names)
        losses = self.curves(f"trainloss{number}", "Loss", log, ("train_loss", "val_loss"), ".3f")
        body = f'<div class="pair">{shares}{losses}</div>'
        best = (
            max(range(len(epochs)), key=lambda index: log["val_accuracy"][index]) if log.get("val_accuracy") else None
        )
        summary = [["epochs", str(len(epochs))]]
        if best is not None:
            summary.append(
                ["highest validation accuracy", f"{log['val_accuracy'][best]:.2%} in epoch {epochs[best]:.0f}"]
            )
        if log.get("seconds"):
            summary.append(["time", f"{sum(log['seconds']) / 60:.1f} min"])
        body += html.table([], summary, texts=(0,))
        if training.evaluation:
            body += html.evaluation(training.evaluation)
        for title, picture in training.pictures.items():
            data = base64.b64encode(picture).decode()
            body += (
                f'<h3>{escape(title.capitalize())}</h3><img alt="{escape(title)}" src="data:image/png;base64,{data}">'
            )
        several = f": {training.folder.name}" if len(self.found.trainings) > 1 else ""
        return Section(
            f"training{number}",
            f"The training{escape(several)}",
            "Accuracy after each epoch; training images are augmented, so that they are the harder ones.",
            body,
        )

    def files(self) -> Section:
        """What was exported."""
        from fbnet_mobile.formats.clients import CLIENTS

        exports = {Path(str(each["file"].get("path", ""))).name: each["file"] for each in self.found.exports.values()}
        rows = []
        formats = {".tflite": "tflite", ".onnx": "onnx", ".mlpackage": "coreml", ".pt": "checkpoint"}
        seen = set()
        for model, _ in self.models():
            path = Path(str(model["model"]))
            seen.add(path.name)
            kind = formats.get(path.suffix, path.suffix)
            export = exports.get(path.name, {})
            opens = _opens(kind, str(model.get("precision")), CLIENTS)
            times = model.get("latency") or {}
            rows.append(
                [
                    path.name,
                    kind,
                    str(model.get("precision") or ""),
                    f"{model['size_bytes'] / 1e3:,.0f} kB",
                    _difference(export),
                    "" if model.get("accuracy") is None else f"{model['accuracy']:.2%}",
                    latency(times["latency_us"]) if times.get("latency_us") else "not timed",
                    opens,
                ]
            )
        for name, file in exports.items():
            if name not in seen:
                kind = str(file.get("format"))
                opens = _opens(kind, str(file.get("precision")), CLIENTS)
                size = f"{float(file.get('size') or 0) / 1e3:,.0f} kB"
                accuracy = "" if file.get("accuracy") is None else f"{file['accuracy']:.2%}"
                rows.append([name, kind, str(file.get("precision")), size, _difference(file), accuracy, "", opens])
        head = ["file", "format", "precision", "size", "differs from PyTorch", "accuracy", "latency", "opens in"]
        return Section(
            "files",
            "Files",
            "What was exported. The difference is the largest of any logit, relative to the largest logit.",
            html.table(head, rows, texts=(0, 1, 7)),
        )

    def commands(self) -> Section:
        """How to repeat it."""
        parts = []
        for path, text in self.found.commands.items():
            first, _, rest = text.partition("\n")
            again = first.rpartition("again: ")[2].strip() if "again: " in first else ""
            where = str(path.parent)
            command = f"cd {where} && {again}" if again else str(path)
            parts.append(
                f"<pre>{escape(command)}</pre>"
                f"<details><summary>{escape(first.lstrip('# ').partition(';')[0])}: its options</summary>"
                f"<pre>{escape(rest)}</pre></details>"
            )
        parts += [
            f"<pre>{escape(str(each['command']))}</pre>" for each in self.found.exports.values() if each.get("command")
        ]
        versions = sorted(
            {
                f"{model['runtime']} {model['runtime_version']}"
                for model, _ in self.models()
                if model.get("runtime") and model.get("runtime_version")
            }
            | {f"{table.conditions.runtime} {table.conditions.runtime_version}" for table in self.found.tables.values()}
        )
        body = "".join(parts) or '<p class="note">No options were kept beside what was given.</p>'
        body += f"<p>Made by fbnet-mobile {escape(__version__)}"
        body += f", with {escape(', '.join(versions))}.</p>" if versions else ".</p>"
        body += html.bullets(self.found.left_out, "Could not be read: ")
        return Section("again", "To repeat it", "Each command as it was given, with every option it had.", body)


def page(found: Found) -> str:
    """The page as text of HTML."""
    made = Page(found)
    sections = list(made.sections())
    devices = {f"{table.conditions.device} ({table.conditions.cpu})" for table in found.tables.values()}
    devices |= {f"{each['device']} ({each['facts'].get('cpu', '')})" for each in found.benchmarks.values()}
    names = [search.architecture.name for search in found.searches] or [each.folder.name for each in found.trainings]
    title = ", ".join(names[:3]) or "Latency"
    lead = " · ".join(filter(None, [", ".join(sorted(devices)), f"written {date.today().isoformat()}"]))
    cards = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in made.cards()
    )
    links = "".join(f'<a href="#{each.name}">{each.title}</a>' for each in sections)
    body = "".join(
        f'<section id="{each.name}"><h2>{each.title}</h2><p class="lead">{each.lead}</p>{each.body}</section>'
        for each in sections
    )
    models = [
        {
            "name": point.name,
            "at": point.us / made.scale,
            "accuracy": point.accuracy,
            "text": f"{point.accuracy:.2%} in {latency(point.us)} on {point.device}",
        }
        for point in made.points
        if point.accuracy is not None
    ]
    folder = resources.files("fbnet_mobile.report")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    data = {"charts": made.charts, "models": models, "probabilities": made.probabilities}
    plotted = any(made.charts)
    return "".join(
        [
            f'<!doctype html>{MARK}<html lang="en" class="no-script"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)} · fbnet-mobile</title><style>{style}</style></head><body>"
            f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
            f'<div class="cards">{cards}</div></header>'
            f"<nav>{links}</nav><main>{body}</main>"
            f"<footer>Written by fbnet-mobile {escape(__version__)}. The page needs no network.</footer>",
            *(
                f'<script type="application/json" id="{name}">{html.to_json(value)}</script>'
                for name, value in data.items()
            ),
            f'<script type="text/plain" id="plotly">{_plotly() if plotted else ""}</script>',
            f"<script>{script}</script></body></html>\n",
        ]
    )


@functools.cache
def _plotly() -> str:
    """plotly.js, packed, as the page unpacks it: a third of its 4.8 MB."""
    try:
        library = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    except (ImportError, OSError) as error:
        raise UserError("no plotly to draw with; pip install plotly") from error
    return base64.b64encode(gzip.compress(library, 9, mtime=0)).decode()


def _points(found: Found) -> Iterator[Point]:
    names = {search.architecture.name for search in found.searches}
    for path, benchmark in found.benchmarks.items():
        for model in benchmark["models"]:
            times = model.get("latency")
            if not times or not times.get("latency_us"):
                continue
            predicted = model.get("predicted_us")
            file = Path(str(model["model"]))
            precision = model.get("precision")
            yield Point(
                f"{file.name} ({model['runtime']}{f', {precision}' if precision not in (None, 'fp32') else ''})",
                _kind(file, path.parent, names),
                times["latency_us"],
                predicted,
                model.get("accuracy"),
                model.get("images"),
                model,
                str(benchmark["device"]),
            )


def _kind(file: Path, folder: Path, found: Iterable[str]) -> str:
    """How a network came about, by the name that its file holds."""
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.zoo import zoo_names

    for path in (file, folder / file.name):
        try:
            from fbnet_mobile.formats.base import read_metadata
            from fbnet_mobile.formats.metadata import ModelMetadata

            metadata = ModelMetadata.from_strings(read_metadata(path), str(path))
        except (FbnetError, OSError, ImportError, ValueError):
            continue
        if metadata is None or not metadata.architecture:
            return "imported"
        network = Architecture.from_yaml(metadata.architecture, str(path))
        if network.name in zoo_names():
            return "published"
        return "random" if "random" in network.name else "found"
    return "found" if list(found) else "measured"


def _front(points: Sequence[Point]) -> list[Point]:
    """Those that no faster one equals, from the fastest on."""
    front: list[Point] = []
    for point in points:
        if not front or (point.accuracy or 0) > (front[-1].accuracy or 0):
            front.append(point)
    return front


def _quantity(column: str) -> str:
    """The name of a cost from that of its column: ``latency`` from ``latency_us_2``."""
    for name in QUANTITIES:
        if column == name or column.startswith(f"{name}_"):
            return name
    return column


def _readable(quantity: str, value: float) -> str:
    if quantity == "latency":
        return latency(value)
    if quantity in ("macs", "params") and value >= 1e4:
        return f"{value / 1e6:.3g} M"
    return QUANTITIES.get(quantity).readable(value) if quantity in QUANTITIES else f"{value:,.4g}"


def _significant(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.4g}"


def _health(path: Path, table: Any) -> list[str]:
    error, rounds = table.error(), [fields for fields, _ in table.rounds()]

    def most(name: str) -> str:
        numbers = [float(fields[name]) for fields in rounds if _is_number(fields.get(name, ""))]
        return "" if not numbers else f"{max(numbers):.0%}" if name == "drift" else f"{max(numbers):.1f}"

    measured = sorted(row.uncertainty for row in table.blocks().values() if row.source == "measured")
    own = table.conditions
    age = ""
    try:
        days = (date.today() - date.fromisoformat(own.date)).days
        age = f" ({days} day{'' if days == 1 else 's'} ago)" if days > 0 else ""
    except ValueError:
        pass
    return [
        path.name,
        f"{own.device} ({own.cpu}), {own.runtime} {own.runtime_version}, {own.precision}, {own.threads} thread"
        + ("s" if own.threads > 1 else ""),
        f"{len(table.blocks()):,}" + ("" if len(measured) == len(table.blocks()) else f", {len(measured):,} measured"),
        "" if error is None else f"{error.mean:.1%}",
        "" if error is None else f"{error.within_5_percent:.0%}",
        f"{measured[len(measured) // 2]:.1%}" if measured else "",
        most("drift"),
        most("load_1m"),
        f"{own.date}{age}",
    ]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _difference(file: Mapping[str, Any]) -> str:
    value = file.get("relative_difference")
    return "" if value is None else f"{value:.1e}"


def _opens(kind: str, precision: str, clients: Mapping[str, Any]) -> str:
    if kind == "coreml":
        return "Core ML"
    runs = {"tflite": ["LiteRT"], "onnx": ["ONNX Runtime"], "checkpoint": ["fbnet-mobile"]}.get(kind, [])
    # What takes only pixels and probabilities needs a file that was made for it; see docs/export.md.
    found = [each.title for each in clients.values() if precision in each.formats.get(kind, ()) and not each.scores]
    return ", ".join([*runs, *found])
