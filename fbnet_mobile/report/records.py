"""What the five commands come to; console, JSON and files are written from these records.

Latencies are in microseconds, shares and accuracies from 0 to 1, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # these load numpy and torch, which printing does not need
    from fbnet_mobile.devices import DeviceFacts, DeviceState
    from fbnet_mobile.formats.verify import ExportReport
    from fbnet_mobile.latency.calibration import PredictionError
    from fbnet_mobile.latency.table import Conditions, Measurement
    from fbnet_mobile.search.results import SearchEpoch
    from fbnet_mobile.train.results import EpochResult, Evaluation


@dataclass(frozen=True)
class ProfileResult:
    """A latency table.

    Attributes:
        table: its file.
        conditions: under which it was measured.
        blocks: how many it has.
        estimated: how many of them were not measured.
        networks: whole networks measured with them.
        rounds: the fewest that a measured block had.
        fixed_us: cost of an invocation.
        estimate_error: largest expected relative error of an estimate; None without estimates.
        median_difference: of the blocks between even and odd rounds, relative, the median; None if none was measured.
        p90_difference: the same, the 90th percentile.
        calibration: name of the model that corrects the sum of blocks.
        coefficients: of that model.
        error: on whole networks that were left out of the fit; None with too few of them.
        network_difference: mean difference of the networks' own measurements between even and odd rounds.
        warnings: what makes the numbers less certain.
        complete_with: the command that measures what is estimated; empty if nothing is.
    """

    table: Path
    conditions: Conditions
    blocks: int
    estimated: int
    networks: int
    rounds: int
    fixed_us: float
    estimate_error: float | None
    median_difference: float | None
    p90_difference: float | None
    calibration: str
    coefficients: tuple[float, ...]
    error: PredictionError | None
    network_difference: float
    warnings: tuple[str, ...]
    complete_with: str


@dataclass(frozen=True)
class BlockChange:
    """A block in two tables; ``ratio`` is the second latency over the first."""

    block: str
    first_us: float
    second_us: float
    ratio: float


@dataclass(frozen=True)
class TableComparison:
    """Two tables, block by block.

    Attributes:
        tables: the two files.
        conditions: of each.
        ratios: least, 10th percentile, median, 90th percentile and greatest of the second latency over the first.
        blocks: those in both, from what is relatively faster in the second to what is slower.
    """

    tables: tuple[Path, Path]
    conditions: tuple[Conditions, Conditions]
    ratios: tuple[float, ...]
    blocks: tuple[BlockChange, ...]


@dataclass(frozen=True)
class DeviceFound:
    """A device that is reachable, or why it is not.

    Attributes:
        name: for ``--device``.
        facts: what it is; None if it cannot be reached.
        state: what it says of itself now; None if it cannot be reached.
        runtimes: version of each that works there.
        problem: why it cannot be used, or not while another job uses it; empty if it can.
    """

    name: str
    facts: DeviceFacts | None
    state: DeviceState | None
    runtimes: Mapping[str, str]
    problem: str


@dataclass(frozen=True)
class DeviceList:
    """The devices there are; ``settings`` is the devices.yaml that names some, None without one."""

    devices: tuple[DeviceFound, ...]
    settings: Path | None


@dataclass(frozen=True)
class Finding:
    """Something that a device needs; ``problem`` says what to do if it is missing, and is empty if it is there."""

    what: str
    problem: str = ""


@dataclass(frozen=True)
class DeviceCheck:
    """What works on a device and what is missing; ``usable`` says whether anything can be measured there."""

    device: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    usable: bool

    @property
    def failure(self) -> str:
        """What a command ends with after it has shown this; empty if all is well."""
        return "" if self.usable else f"{self.device} cannot measure anything yet; see what is missing above"


@dataclass(frozen=True)
class LimitMet:
    """How a network meets a limit.

    Attributes:
        quantity: name of the cost that is limited.
        label: of the cost for people, with the device if it is a latency.
        limit: the most that was allowed, in the quantity's unit.
        value: what the network costs by prediction or count.
        most_likely: what the network of each choice's most probable option would cost.
    """

    quantity: str
    label: str
    limit: float
    value: float
    most_likely: float


@dataclass(frozen=True)
class NetworkFound:
    """A network that a search derived.

    Attributes:
        architecture: its file.
        limits: how it meets each.
        macs: multiply-accumulates.
        params: parameters.
        most_likely_macs: of the network of each choice's most probable option.
        most_likely_params: the same.
        assignment: the network's choices.
        history: every epoch of the search.
        measured_us: what the networks took on the device that were derived one after the other, if they were measured.
    """

    architecture: Path
    limits: tuple[LimitMet, ...]
    macs: int
    params: int
    most_likely_macs: int
    most_likely_params: int
    assignment: Mapping[str, Any]
    history: tuple[SearchEpoch, ...]
    measured_us: tuple[float, ...] = ()


@dataclass(frozen=True)
class SearchResult:
    """What a search of a space came to; ``remarks`` say what was changed in what was asked for."""

    space: str
    networks: float
    remarks: tuple[str, ...]
    found: tuple[NetworkFound, ...]

    @property
    def architecture(self) -> Path:
        """File of the first network, which is the only one unless several targets were given."""
        return self.found[0].architecture


@dataclass(frozen=True)
class PlannedNetwork:
    """A network that a space holds.

    Attributes:
        name: smallest, middle or largest.
        resolution: of its input, pixels.
        costs: of each limit, in the order of ``SearchPlan.limits``, and of the tables.
        macs: multiply-accumulates.
        params: parameters.
    """

    name: str
    resolution: int
    costs: tuple[float, ...]
    macs: int
    params: int


@dataclass(frozen=True)
class PlannedLimit:
    """A limit beside what a space reaches.

    Attributes:
        quantity: name of the cost.
        label: of the cost for people, with the device if it is a latency.
        limits: what is asked for, in the quantity's unit, one for each search; empty if it is only shown.
        lowest: of all networks.
        highest: of all networks.
    """

    quantity: str
    label: str
    limits: tuple[float, ...]
    lowest: float
    highest: float


@dataclass(frozen=True)
class SearchPlan:
    """What a search could find.

    Attributes:
        space: its name.
        why: it was chosen; empty if it was named.
        networks: how many there are.
        resolutions: of their inputs, pixels.
        limits: those asked for, and what the tables predict.
        found: the smallest, the middle and the largest network by the first of these; the middle is larger than half
            of those drawn at random.
        feasible: whether there is a network within all limits, for each search; empty if nothing is limited.
        data: in words, what the search would do with the images; empty without any.
    """

    space: str
    why: str
    networks: float
    resolutions: tuple[int, ...]
    limits: tuple[PlannedLimit, ...]
    found: tuple[PlannedNetwork, ...]
    feasible: tuple[bool, ...]
    data: str

    @property
    def failure(self) -> str:
        """What the command ends with after it has shown this; empty if the search can begin."""
        return "" if all(self.feasible) else "no network of the space is within the limits; see above what it reaches"


@dataclass(frozen=True)
class TrainResult:
    """A trained network.

    Attributes:
        checkpoint: of its best epoch.
        val_accuracy: on the validation images.
        val_images: how many.
        test_accuracy: on the test images.
        test_images: how many.
        remarks: what was changed in what was asked for.
        history: every epoch.
        damaged: images that were left out because they cannot be decoded; ``damaged.txt`` lists them.
    """

    checkpoint: Path
    val_accuracy: float
    val_images: int
    test_accuracy: float
    test_images: int
    remarks: tuple[str, ...]
    history: tuple[EpochResult, ...]
    damaged: int = 0


@dataclass(frozen=True)
class EvaluationResult:
    """A checkpoint on labelled images.

    Attributes:
        checkpoint: that was measured.
        data: on whose test images.
        output: folder of evaluation.json and pictures; None if there is none.
        evaluation: every number.
    """

    checkpoint: Path
    data: str
    output: Path | None
    evaluation: Evaluation


@dataclass(frozen=True)
class FileLatency:
    """What a model file takes on a device, and what a table predicted.

    Attributes:
        device: its name.
        cpu: its processor.
        runtime: by which it was run.
        runtime_version: of that.
        threads: of that.
        statistic: that is compared with the prediction.
        measured: all statistics.
        predicted_us: by the table; None without a table, or without a prediction.
        no_prediction: why the table predicts nothing; empty if it does or there is none.
    """

    device: str
    cpu: str
    runtime: str
    runtime_version: str
    threads: int
    statistic: str
    measured: Measurement
    predicted_us: float | None
    no_prediction: str


@dataclass(frozen=True)
class ExportResult:
    """An exported file.

    Attributes:
        file: what was written and how far it is from PyTorch.
        data: images that it was compared on; None for random inputs.
        same_classes: whether the images have the network's classes, so that accuracy is counted.
        fresh_weights_of: name of the network if its weights were freshly initialised; else empty.
        latency: on a device, if asked for.
        sensitivity: whether to print what each layer suffers from quantisation.
        command: that wrote it, as it can be typed.
        kind: tells its JSON from other files.
    """

    file: ExportReport
    data: str | None
    same_classes: bool
    fresh_weights_of: str
    latency: FileLatency | None
    sensitivity: bool = False
    command: str = ""
    kind: str = "fbnet-mobile export"


@dataclass(frozen=True)
class BlockTime:
    """A block within a file that was run.

    Attributes:
        block: its key.
        measured_us: by the runtime's profiler.
        predicted_us: by the table; None without one, or without a prediction.
    """

    block: str
    measured_us: float
    predicted_us: float | None = None


@dataclass(frozen=True)
class ModelResult:
    """A model file that was benchmarked.

    Attributes:
        model: its path.
        precision: of what it stores; None if the file does not say.
        runtime: that runs it.
        runtime_version: of that.
        threads: of that.
        size_bytes: of the file, or of the folder's files together.
        statistic: that is compared with the prediction.
        latency: on the device; None if it was not timed.
        predicted_us: by the table; None without a table, or without a prediction.
        no_prediction: why the table predicts nothing; empty if it does or there is none.
        accuracy: on the test images; None if not asked for.
        images: how many those are.
        blocks: what each takes; empty if not asked for, or if there is no telling.
        between_us: what is spent between blocks; None without blocks.
        no_blocks: why there is no telling; empty if there is, or if not asked for.
    """

    model: Path
    precision: str | None
    runtime: str
    runtime_version: str
    threads: int
    size_bytes: int
    statistic: str
    latency: Measurement | None = None
    predicted_us: float | None = None
    no_prediction: str = ""
    accuracy: float | None = None
    images: int | None = None
    blocks: tuple[BlockTime, ...] = ()
    between_us: float | None = None
    no_blocks: str = ""


@dataclass(frozen=True)
class BenchmarkResult:
    """Model files measured on a device; ``kind`` tells its JSON from other files."""

    device: str
    facts: DeviceFacts
    models: tuple[ModelResult, ...]
    kind: str = "fbnet-mobile benchmark"


@dataclass(frozen=True)
class ReportResult:
    """A page of what runs left.

    Attributes:
        page: the file.
        size: of it.
        searches: how many it shows.
        trainings: likewise.
        tables: likewise, those that searches were made with among them.
        benchmarks: likewise.
        left_out: files that could not be read, and why.
    """

    page: Path
    size: int
    searches: int
    trainings: int
    tables: int
    benchmarks: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of the zoo: what is counted here, and what its publication states."""

    name: str
    resolution: int
    macs: int
    params: int
    published_macs: int
    published_params: int
    top1_percent: float | None
    stated_in: str


@dataclass(frozen=True)
class ImportableNetwork:
    """A network of another library that a training can start from."""

    name: str
    resolution: int
    macs: int
    params: int


@dataclass(frozen=True)
class PublishedNetworks:
    """The zoo; ``source`` is what its networks are taken from; and what can be imported besides."""

    networks: tuple[PublishedNetwork, ...]
    source: str
    importable: tuple[ImportableNetwork, ...]
