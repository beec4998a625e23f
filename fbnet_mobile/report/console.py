"""Records as the lines that people read, one function for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fbnet_mobile.report.records import (
    BenchmarkResult,
    DeviceCheck,
    DeviceList,
    EvaluationResult,
    ExportResult,
    FileLatency,
    ModelResult,
    NetworkFound,
    ProfileResult,
    PublishedNetworks,
    ReportResult,
    SearchPlan,
    SearchResult,
    TableComparison,
    TrainResult,
)

if TYPE_CHECKING:
    from fbnet_mobile.formats.int8 import Quantised
    from fbnet_mobile.latency.table import Conditions, Measurement
    from fbnet_mobile.train.results import DryRun

_MOST_CONFUSED = 5


def latency(latency_us: float) -> str:
    """A latency for people: milliseconds from 1 ms up, microseconds below."""
    return f"{latency_us / 1e3:.3f} ms" if latency_us >= 1e3 else f"{latency_us:.1f} us"


def duration(seconds: float) -> str:
    """A time for people, such as 2 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def threads(count: int) -> str:
    """A number of threads."""
    return f"{count} thread{'s' if count > 1 else ''}"


def _conditions(conditions: "Conditions") -> str:
    files = f" of {conditions.unusual} files" if conditions.unusual else ""
    return (
        f"{conditions.device} ({conditions.cpu}), {conditions.runtime} {conditions.runtime_version}{files}, "
        f"{threads(conditions.threads)}, {conditions.precision}, {conditions.statistic}"
    )


def profile_lines(result: ProfileResult) -> Iterator[str]:
    """A latency table: what it holds, how exact it is, what makes it uncertain, how to complete it."""
    yield (
        f"{result.table}: {result.blocks} blocks and {result.networks} networks for space {result.conditions.space} on "
        f"{_conditions(result.conditions)} of {result.rounds} rounds or more, {result.conditions.date}"
    )
    if result.median_difference is not None:
        yield (
            f"fixed cost of an invocation {latency(result.fixed_us)}; difference between halves of the rounds: median "
            f"{result.median_difference:.1%}, 90th percentile {result.p90_difference:.1%}"
        )
    if result.error is None:
        yield "not calibrated: too few whole networks in the table to know its error"
    else:
        coefficients = ", ".join(f"{value:.4g}" for value in result.coefficients)
        error = result.error
        yield (
            f"calibration: {result.calibration} ({coefficients}); on {error.networks} networks, each left out in turn: "
            f"mean error {error.mean:.1%}, {error.within_5_percent:.0%} within 5 %, {error.within_10_percent:.0%} "
            f"within 10 %, Spearman {error.spearman:.3f}; their own measurements differ by "
            f"{result.network_difference:.1%} between halves of the rounds"
        )
    for warning in result.warnings:
        yield f"warning: {warning}; the numbers are the less certain"
    if result.estimated:
        yield (
            f"{result.estimated} of the {result.blocks} blocks are estimated from the others, with an error of "
            f"{result.estimate_error:.1%}; this measures them: {result.complete_with}"
        )


def comparison_lines(result: TableComparison) -> Iterator[str]:
    """Two tables: how the latencies of the second are to those of the first."""
    for path, conditions in zip(result.tables, result.conditions, strict=True):
        yield f"{path}: {_conditions(conditions)}, {conditions.date}"
    yield f"{len(result.blocks)} blocks in both; latency in the second over the first:"
    names = ("least", "10th percentile", "median", "90th percentile", "greatest")
    yield "  " + ", ".join(f"{name} {value:.3f}" for name, value in zip(names, result.ratios, strict=True))
    for title, blocks in (("fastest", result.blocks[:5]), ("slowest", result.blocks[::-1][:5])):
        yield f"relatively {title} in the second:"
        for block in blocks:
            yield f"  x{block.ratio:.3f}  {block.first_us:.1f} -> {block.second_us:.1f} us  {block.block}"


def device_lines(result: DeviceList) -> Iterator[str]:
    """The devices there are, with what each is and offers."""
    for device in result.devices:
        yield device.name
        if device.facts is None or device.state is None:
            yield f"  not usable: {device.problem}"
            continue
        facts, state = device.facts, device.state
        load = "unknown" if state.load_1m is None else f"{state.load_1m:.1f}"
        heat = "unknown" if state.temperature_c is None else f"{state.temperature_c:.0f} C"
        yield f"  {facts.cpu}, {facts.cores} cores, {facts.memory_mb} MB, {facts.operating_system}"
        yield f"  governor {facts.governor}, temperature {heat}, load {load}"
        offered = ", ".join(f"{name} {version}" for name, version in device.runtimes.items()) or "none"
        yield f"  not usable: {device.problem}" if device.problem else f"  runtimes: {offered}"


def check_lines(result: DeviceCheck) -> Iterator[str]:
    """What works on a device and what is missing, with the command that mends it."""
    for finding in result.findings:
        yield f"{'missing' if finding.problem else 'ok':8} {finding.what}" + (
            f": {finding.problem}" if finding.problem else ""
        )
    for note in result.notes:
        yield f"note     {note}"


def search_lines(result: SearchResult) -> Iterator[str]:
    """The networks that were found, beside what was most probable whatever the limits."""
    for found in result.found:
        yield from _found_lines(found)


def _found_lines(found: NetworkFound) -> Iterator[str]:
    from fbnet_mobile.cost.quantity import QUANTITIES

    met, likely = [], []
    for limit in found.limits:
        readable = QUANTITIES.get(limit.quantity).readable
        met.append(f"{limit.label} {readable(limit.value)} of {readable(limit.limit)}")
        likely.append(f"{limit.label} {readable(limit.most_likely)}")
    yield (
        f"{found.architecture}: predicted {', '.join(met)}; {found.macs / 1e6:.2f} M MACs, "
        f"{found.params / 1e6:.3f} M parameters"
    )
    yield (
        f"taking each choice's most probable option, whatever the budget, would be predicted {', '.join(likely)}; "
        f"{found.most_likely_macs / 1e6:.2f} M MACs, {found.most_likely_params / 1e6:.3f} M parameters"
    )


def search_plan_lines(plan: SearchPlan) -> Iterator[str]:
    """What a space reaches, beside what is asked for."""
    from fbnet_mobile.cost.quantity import QUANTITIES

    def readable(quantity: str, value: float) -> str:
        return latency(value) if quantity == "latency" else QUANTITIES.get(quantity).readable(value)

    pixels = " or ".join(map(str, plan.resolutions))
    yield f"{plan.why or f'space {plan.space}'}: {plan.networks:.2g} networks for {pixels} pixels"
    shown = [number for number, limit in enumerate(plan.limits) if limit.quantity not in ("macs", "params")]
    rows = [["", *(plan.limits[number].label for number in shown), "MACs", "parameters", "pixels"]]
    rows += [
        [
            network.name,
            *(readable(plan.limits[number].quantity, network.costs[number]) for number in shown),
            f"{network.macs / 1e6:.2f} M",
            f"{network.params / 1e6:.3f} M",
            str(network.resolution),
        ]
        for network in plan.found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        numbers = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        yield "  ".join([f"  {name:<{widths[0]}}", *numbers])
    for limit in plan.limits:
        for value in limit.limits:
            if value < limit.lowest:
                verdict = f"out of reach: no network has less than {readable(limit.quantity, limit.lowest)}"
            elif value >= limit.highest:
                verdict = "above every network: it limits nothing"
            else:
                verdict = "inside"
            yield f"{limit.label} of at most {readable(limit.quantity, value)}: {verdict}"
    if len([limit for limit in plan.limits if limit.limits]) > 1:
        yield f"all together: {'there are networks within them' if all(plan.feasible) else 'no network is within them'}"
    if plan.data:
        yield plan.data


def train_lines(result: TrainResult) -> Iterator[str]:
    """A trained network's accuracy."""
    yield (
        f"{result.checkpoint}: accuracy {result.val_accuracy:.2%} on the {result.val_images} validation images, "
        f"{result.test_accuracy:.2%} on the {result.test_images} test images"
    )


def evaluation_lines(result: EvaluationResult) -> Iterator[str]:
    """Each class by itself, what is confused most, and the whole."""
    found = result.evaluation
    width = max(5, *(len(item.name) for item in found.classes))
    yield f"{'class':{width}} {'images':>7} {'precision':>9} {'recall':>7} {'F1':>7}"
    for item in found.classes:
        yield f"{item.name:{width}} {item.images:>7,} {item.precision:>9.2%} {item.recall:>7.2%} {item.f1:>7.2%}"
    yield f"{'mean':{width}} {found.images:>7,} {found.precision:>9.2%} {found.recall:>7.2%} {found.f1:>7.2%}"
    pairs = [
        (count, row, column)
        for row, counts in enumerate(found.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    for count, row, column in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))[:_MOST_CONFUSED]:
        yield f"{count} of {found.classes[row].name} taken for {found.classes[column].name}"
    top5 = "" if found.top5 is None else f", top-5 {found.top5:.2%}"
    yield (
        f"{result.checkpoint}: accuracy {found.accuracy:.2%}{top5} on {found.images:,} test images of {result.data}; "
        f"calibration error {found.calibration_error:.2%}"
    )
    if result.output is not None:
        yield f"evaluation.json and pictures of it are in {result.output}"


def dry_run_lines(result: "DryRun") -> Iterator[str]:
    """A training that is not made: its options, its schedule, what it would take."""
    for name, value in result.options.items():
        yield f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
    yield ""
    counts = ", ".join(f"{count:,} {part}" for part, count in result.images.items())
    yield f"images: {counts}, {result.classes} classes; {result.steps:,} steps an epoch"
    rates = ", ".join(f"{rate:.3g} after {epoch}" for epoch, rate in result.schedule.items())
    yield f"learning rate: {rates} epochs"
    memory = f", {result.image_bytes / 1e9:.2f} GB of images among them" if result.image_bytes else ""
    yield (
        f"expected on {result.device}: {duration(result.seconds)} ({result.step_seconds * 1e3:,.0f} ms a step), "
        f"{result.memory_bytes / 1e9:.2f} GB{memory}"
    )


def export_lines(result: ExportResult) -> Iterator[str]:
    """An exported file beside PyTorch, and its latency beside the prediction."""
    file = result.file
    by_images = "random inputs" if file.quantised is None else "calibration images"
    kind = by_images if result.data is None else "test images"
    of = "number" if len(file.outputs) > 1 else "logit"
    yield (
        f"{file.path}: {file.size / 1e6:.3f} MB, largest difference from PyTorch on {file.inputs} {kind} "
        f"{file.largest_difference:.2g} ({file.relative_difference:.2g} of the largest {of})"
    )
    if len(file.outputs) > 1:
        for name, (shape, relative) in file.outputs.items():
            yield f"{name} {shape}: {relative:.2g} of its largest number"
    if file.merged:
        parts = ", ".join(f"{count} {name}" for name, count in file.merged.items())
        yield f"merged the branches of {parts}; the file was compared with the network as it was trained"
    if result.data is not None or file.precision != "fp32":
        answers = (
            "no answers of one logit" if file.agreement is None else f"PyTorch's answer on {file.agreement:.1%} of them"
        )
        line = f"{file.precision}: {answers}"
        if file.accuracy is not None and file.pytorch_accuracy is not None:
            points = 100 * (file.accuracy - file.pytorch_accuracy)
            line += f"; accuracy {file.accuracy:.2%}, PyTorch's {file.pytorch_accuracy:.2%} ({points:+.2f} points)"
        yield line
    if file.quantised is not None:
        yield from _quantised_lines(file.quantised, result.sensitivity)
    if result.data is not None and not result.same_classes:
        yield f"accuracy not counted: the classes of {result.data} are not those of the network"
    if result.fresh_weights_of:
        yield (
            f"the weights of {result.fresh_weights_of} are freshly initialised: the file is for measuring, not for "
            "predicting"
        )
    if result.latency is not None:
        yield from _latency_lines(result.latency, result.latency.measured, result.latency.device, result.latency.cpu)


def _quantised_lines(quantised: "Quantised", sensitivity: bool) -> Iterator[str]:
    """How a file was quantised, and what each of its layers suffers."""
    errors = ", ".join(f"{name} {error:.2g}" for name, error in quantised.errors.items())
    corrected = ", biases corrected" if quantised.corrected else ""
    kept = f"; in float32: {', '.join(quantised.kept)}" if quantised.kept else ""
    yield f"ranges: {quantised.ranges}{corrected} (error of the logits: {errors}){kept}"
    if quantised.memory is not None:
        yield (
            f"integers alone: {quantised.memory / 1e3:.1f} kB of values are in memory at once; an arena of TFLite "
            "Micro holds its own records besides"
        )
    if not sensitivity:
        return
    total = sum(layer.macs for layer in quantised.layers) or 1
    yield f"{'signal to noise':>15} {'noise added':>11} {'error alone':>11} {'MACs':>6}  layer"
    for layer in quantised.layers:
        alone = "not known" if layer.error is None else f"{layer.error:.2g}"
        yield f"{layer.snr_db:>12.1f} dB {layer.added:>11.2%} {alone:>11} {layer.macs / total:>6.1%}  {layer.name}"


def _latency_lines(
    result: FileLatency | ModelResult, measured: "Measurement", device: str, cpu: str, indent: str = ""
) -> Iterator[str]:
    values = ", ".join(
        f"{name} {latency(value)}"
        for name in ("min", "p10", "median", "p90", "mean")
        if (value := getattr(measured, f"{name}_us")) == value  # benchmark_model prints not all of them
    )
    yield (
        f"{indent}latency on {device} ({cpu}), {result.runtime}, {threads(result.threads)}: {values}; "
        f"{measured.runs} runs"
    )
    if result.predicted_us is not None:
        error = result.predicted_us / measured.latency_us - 1
        yield f"{indent}predicted {latency(result.predicted_us)}, {error:+.1%} of the measured {result.statistic}"
    elif result.no_prediction:
        yield f"{indent}no prediction: {result.no_prediction}"


def benchmark_lines(result: BenchmarkResult) -> Iterator[str]:
    """Each model file: size, latency beside the prediction, accuracy."""
    for model in result.models:
        yield from _model_lines(model, result.device, result.facts.cpu)


def _model_lines(model: ModelResult, device: str, cpu: str) -> Iterator[str]:
    precision = f", {model.precision}" if model.precision else ""
    yield f"{model.model} ({model.size_bytes / 1e6:.3f} MB{precision}), {model.runtime} {model.runtime_version}"
    if model.latency is not None:
        yield from _latency_lines(model, model.latency, device, cpu, "  ")
    elif model.runtime == "coreml":
        yield "  latency: not timed; Core ML is, on a Mac, with --device coreml"
    elif model.runtime != "torch":
        yield f"  latency: not timed; {device} does not run {model.runtime}"
    yield from _block_lines(model)
    if model.accuracy is not None:
        yield f"  accuracy {model.accuracy:.2%} on {model.images} test images"


def _block_lines(model: ModelResult) -> Iterator[str]:
    if model.no_blocks:
        yield f"  no time of each block: {model.no_blocks}"
    if not model.blocks:
        return
    total_us = sum(time.measured_us for time in model.blocks)
    yield (
        f"  {model.runtime}'s profiler: {latency(total_us)} in the blocks, {latency(model.between_us or 0.0)} between "
        "them, its own work included: compare shares"
    )
    yield f"  {'measured':>10} {'share':>5} {'predicted':>10}  block"
    for time in model.blocks:
        predicted = "" if time.predicted_us is None else latency(time.predicted_us)
        share = time.measured_us / total_us
        yield f"  {latency(time.measured_us):>10} {share:>5.0%} {predicted:>10}  {time.block}"


def report_lines(result: ReportResult) -> Iterator[str]:
    """A page: where it is, and what it shows."""
    counts = {
        "search": result.searches,
        "training": result.trainings,
        "latency table": result.tables,
        "benchmark": result.benchmarks,
    }
    plural = {"search": "searches", "training": "trainings"}
    said = [f"{n} {name if n == 1 else plural.get(name, f'{name}s')}" for name, n in counts.items() if n]
    yield f"{result.page}: {', '.join(said) or 'exported files'}; {result.size / 1e6:.1f} MB, opens in any browser"
    for line in result.left_out:
        yield f"left out {line}"


def zoo_lines(result: PublishedNetworks) -> Iterator[str]:
    """The published networks with their counts."""

    def row(*cells: str) -> str:
        return "{:15} {:>6} {:>11} {:>9} {:>11} {:>9} {:>5}  {}".format(*cells).rstrip()

    yield row("", "", "", "", "published", "published", "", "")
    yield row("network", "pixels", "MACs, M", "params, M", "MACs, M", "params, M", "top-1", "stated in")
    for network in result.networks:
        counts = (network.macs, network.params, network.published_macs, network.published_params)
        yield row(
            network.name,
            str(network.resolution),
            *(f"{count / 1e6:.6f}" for count in counts),
            "-" if network.top1_percent is None else f"{network.top1_percent:.1f}",
            network.stated_in,
        )
    yield (
        f"\nThe networks are those of {result.source}. It counts one multiply-accumulate more for each\n"
        "element that a global average pool reads, and leaves biases and batch norm out of the parameters. Top-1 is\n"
        "what it states for its own weights on ImageNet, in percent; they do not come with fbnet-mobile, and nothing\n"
        "here has checked it.\n\n"
        "Networks of others that training can start from (fbnet-train --model NAME --pretrained, or --weights FILE):\n"
    )
    yield "{:44} {:>6} {:>11} {:>9}".format("network", "pixels", "MACs, M", "params, M")
    for other in result.importable:
        yield f"{other.name:44} {other.resolution:6} {other.macs / 1e6:11.2f} {other.params / 1e6:9.3f}"
