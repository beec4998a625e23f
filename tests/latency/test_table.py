import errno
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.errors import FbnetError, UserError
from fbnet_mobile.latency.table import BLOCK, INVOCATION, NETWORK, ROUND, Conditions, LatencyTable, Measurement
from fbnet_mobile.space import load_space

CASES = Path(__file__).parents[1] / "cases"
CONDITIONS = Conditions("host", "a cpu", "litert", "2.3.0", 1, "fp32", "min", "small", "2026-11-24")
NETWORK_YAML = """
name: tiny
resolution: 32
blocks:
  - {kind: conv, out_channels: 16, stride: 2}
  - {kind: inverted_residual, out_channels: 16, expanded_channels: 48}
  - {kind: head, out_channels: 10, conv_channels: 64}
"""


def row(latency_us: float) -> Measurement:
    return Measurement(latency_us, latency_us, *[round(latency_us * 1.5, 3)] * 4, runs=100, rounds=4, uncertainty=0.01)


@pytest.fixture
def network() -> Architecture:
    return Architecture.from_yaml(NETWORK_YAML)


@pytest.fixture
def table(network: Architecture) -> LatencyTable:
    stem, middle, head = network.blocks
    rows = {
        LatencyTable.row_key(INVOCATION): row(2.0),
        LatencyTable.row_key(BLOCK, [stem]): row(12.0),
        LatencyTable.row_key(BLOCK, [middle]): row(32.0),
        LatencyTable.row_key(BLOCK, [head]): row(7.0),
        # measured 10 % above the sum of 2 + 10 + 30 + 5
        LatencyTable.row_key(NETWORK, [stem, middle, head]): row(51.7),
    }
    return LatencyTable(CONDITIONS, rows)


def test_the_sum_of_blocks_is_worked_out_by_hand(table: LatencyTable, network: Architecture) -> None:
    assert table.calibration.coefficients == pytest.approx((1.1,))
    assert table.total(network) == pytest.approx(51.7)
    assert table.fixed_us == pytest.approx(2.2)
    assert [cost for _, cost in table.by_block(network)] == pytest.approx([11.0, 33.0, 5.5])
    assert table.error() is None


def test_each_network_is_left_out_of_the_fit_that_judges_it(table: LatencyTable, network: Architecture) -> None:
    stem, middle, head = network.blocks
    rows = dict(table.rows)
    rows[LatencyTable.row_key(NETWORK, [stem, head])] = row(17.0)  # exactly the sum
    rows[LatencyTable.row_key(NETWORK, [middle, head])] = row(37.0)  # exactly the sum
    error = LatencyTable(CONDITIONS, rows).error()
    assert error is not None
    # The first is predicted by the others, whose scale is 1: 47 for 51.7. They are predicted by it and each other.
    ratios = (1.0, 1 / 1.1)
    scale = sum(ratios) / sum(ratio**2 for ratio in ratios)
    assert error.mean == pytest.approx((1 - 47 / 51.7 + 2 * (scale - 1)) / 3)
    assert (error.networks, error.within_10_percent, error.spearman) == (3, 1.0, 1.0)


def test_file_opens_with_pandas_and_reads_back(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.csv")
    frame = pd.read_csv(tmp_path / "table.csv")
    assert frame["latency_us"].sum() == pytest.approx(104.7)
    assert set(frame["cpu"]) == {"a cpu"}
    again = LatencyTable.load(tmp_path / "table.csv")
    assert (again.conditions, dict(again.rows)) == (table.conditions, dict(table.rows))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latency_us", "-3", "line 4: latency_us is '-3': input should be greater than 0"),
        ("latency_us", "0", "line 4: latency_us is '0': input should be greater than 0"),
        ("latency_us", "nan", "line 4: latency_us is 'nan': input should be"),
        ("latency_us", "", "line 4: latency_us is '': input should be a valid number"),
        ("latency_us", "1e300", "line 4: latency_us is '1e300': input should be less than or equal to 10000000000"),
        ("min_us", "fast", "line 4: min_us is 'fast': input should be a valid number"),
        ("min_us", "inf", "line 4: min_us is 'inf': input should be"),
        ("device", "phone", "line 4: device is 'phone', above it 'host'"),
        ("device", "nan", "line 4: device is 'nan': it must be printable text"),
        ("space", "a\x1b[31mb", "line 4: space is "),
        ("threads", "0", "line 4: threads is '0': input should be greater than or equal to 1"),
        ("threads", "9" * 5000, "line 4: threads is '9999"),
        ("runtime", "liter", "line 4: runtime is 'liter': unknown runtime 'liter'; did you mean 'litert'?"),
        ("statistic", "p99", "line 4: statistic is 'p99': input should be 'min', 'median' or 'mean'"),
        ("schema_version", "9", "line 4: schema version 9, but this release reads 2"),
        ("blocks", "conv stride=1", "line 4: not a block: 'conv stride=1'"),
        ("blocks", "", "line 4: "),
        ("source", "guessed", "line 4: source is 'guessed': input should be 'measured' or 'estimated'"),
        ("uncertainty", "-0.1", "line 4: uncertainty is '-0.1': input should be greater than or equal to 0"),
        ("runs", "1.5", "line 4: runs is '1.5': input should be a valid integer"),
        ("kind", "round", "line 4: not what a round says of the device: "),
        ("kind", "invocation", "line 4: an invocation has no blocks"),
        ("kind", "blok", "line 4: kind 'blok' is not one of invocation, block, network, round"),
    ],
)
def test_an_edit_into_nonsense_is_refused_with_its_line(
    table: LatencyTable, tmp_path: Path, column: str, value: str, message: str
) -> None:
    path = tmp_path / "table.csv"
    table.save(path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[2, column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(UserError) as caught:
        LatencyTable.load(path)
    assert str(caught.value).startswith(f"{path}, {message}")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table-shows-nan.csv", "line 2: device is 'nan': it must be printable text that says something"),
        ("table-without-blocks.csv", "has no row for a block; measure a table with fbnet-profile"),
        ("table-key-not-canonical.csv", "line 11: "),
    ],
)
def test_tables_that_say_nothing_or_cannot_be_found_in_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        LatencyTable.load(CASES / name)
    assert message in str(caught.value)


def test_a_key_is_written_as_it_is_looked_for(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table.save(path)
    key = next(iter(table.blocks()))
    kind, first, second, *others = key.split(" ")
    for other in (" ".join([kind, second, first, *others]), key.replace("=3 ", "=03 ", 1)):
        path.write_text(path.read_text().replace(f"block,{key},", f"block,{other},"))
        with pytest.raises(UserError, match=f"line 3: not a block: .*; its key is '{key}'"):
            LatencyTable.load(path)
        path.write_text(path.read_text().replace(f"block,{other},", f"block,{key},"))
    assert LatencyTable.load(path).blocks().keys() == table.blocks().keys()


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "latency_tables").glob("*.csv")), ids=str)
def test_the_tables_that_ship_load_and_are_saved_as_they_are(path: Path, tmp_path: Path) -> None:
    LatencyTable.load(path).save(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_bytes() == path.read_bytes()


def test_columns_of_others_are_kept(table: LatencyTable, network: Architecture, tmp_path: Path) -> None:
    """As the energy of each block, which another product measured."""
    path = tmp_path / "table.csv"
    table.save(path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame["energy_mj"] = ["0.5", "1.25", "3", "0", ""]
    frame["note"] = ["", "by hand", "", "", ""]
    frame.to_csv(path, index=False)
    loaded = LatencyTable.load(path)
    energy = dict(zip(table.rows, [0.5, 1.25, 3.0, 0.0], strict=False))
    assert loaded.extra == {"energy_mj": energy}
    loaded.save(path)
    assert LatencyTable.load(path).extra == {"energy_mj": energy}
    stem = LatencyTable.row_key(BLOCK, network.blocks[:1])
    other = LatencyTable(CONDITIONS, {stem: row(1.0)}, {"energy_mj": {stem: 9.0}, "more": {stem: 1.0}})
    merged = loaded.merged(other)
    assert merged.extra == {"energy_mj": {**energy, stem: 9.0}, "more": {stem: 1.0}}
    frame.rename(columns={"energy_mj": "e\x00\n"}).assign(**{"e\x00\n": "-1"}).to_csv(tmp_path / "odd.csv", index=False)
    with pytest.raises(UserError, match=r"line 2: e\\x00\\n is '-1': it must be a number"):
        LatencyTable.load(tmp_path / "odd.csv")
    for odd in ("-1", "inf", "1e300", "much"):
        frame.loc[2, "energy_mj"] = odd
        frame.to_csv(path, index=False)
        with pytest.raises(UserError, match=rf"line 4: energy_mj is '{odd}': it must be a number from 0 to 1e\+15"):
            LatencyTable.load(path)


def test_a_prediction_is_only_for_the_same_conditions(table: LatencyTable) -> None:
    same = {"device": "host", "cpu": "a cpu", "runtime": "litert", "runtime_version": "2.3.0", "threads": 1,
            "precision": "fp32"}  # fmt: skip
    assert table.mismatch(same) is None
    others = {
        "device": ("phone", "the device is phone, that of the latency table host"),
        "cpu": ("b", "the processor is b, that of the latency table a cpu"),
        "runtime_version": ("2.4.0", "the runtime's version is 2.4.0, that of the latency table 2.3.0"),
        "threads": (2, "the number of threads is 2, that of the latency table 1"),
        "precision": (None, "the precision is not known, that of the latency table fp32"),
    }
    for name, (value, why) in others.items():
        assert table.mismatch({**same, name: value}) == why


def test_a_table_on_a_full_disk_is_one_line(
    table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    table.save(path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(FbnetError, match=r"^cannot write .*table\.csv: no space left on device"):
        table.save(path)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


def test_missing_columns_doubled_rows_and_other_files_are_refused(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table.save(path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.drop(columns="threads").to_csv(path, index=False)
    with pytest.raises(UserError, match="column 'threads' is missing"):
        LatencyTable.load(path)
    pd.concat([frame, frame.iloc[:1]]).to_csv(path, index=False)
    with pytest.raises(UserError, match="line 7: the same row stands twice"):
        LatencyTable.load(path)
    with pytest.raises(UserError, match="measure a table with fbnet-profile"):
        LatencyTable.load(tmp_path / "absent.csv")
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(UserError, match="is not a latency table"):
        LatencyTable.load(path)


def test_a_missing_block_is_never_counted_as_nothing(table: LatencyTable, network: Architecture) -> None:
    other = network.with_classes(20)
    assert table.missing(other.blocks) == [other.blocks[-1]]
    with pytest.raises(UserError, match="no row for the block 'head in_channels=16 out_channels=20"):
        table.total(other)
    with pytest.raises(UserError) as caught:
        table.require(load_space("small"), "small", Path("mine.csv"))
    assert "lacks 1685 of the 1686 candidate blocks of space small" in str(caught.value)
    command = "fbnet-profile --device host --runtime litert --space small --num-classes 10 --threads 1 --precision fp32"
    assert str(caught.value).endswith(f"{command} --statistic min -o mine.csv")
    medians = LatencyTable(replace(CONDITIONS, statistic="median", space="small"), table.rows)
    command = "fbnet-profile --device host --runtime litert --space small --threads 1 --precision fp32"
    assert medians.command(Path("my table.csv")) == f"{command} --statistic median -o 'my table.csv'"


def test_two_tables_are_compared_row_by_row(table: LatencyTable, network: Architecture) -> None:
    stem, _, head = network.blocks
    rows = {LatencyTable.row_key(BLOCK, [stem]): row(24.0), LatencyTable.row_key(BLOCK, [head]): row(3.5)}
    frame = table.compared(LatencyTable(replace(CONDITIONS, threads=2), rows))
    assert list(frame["blocks"]) == [head.key, stem.key]
    assert list(frame["ratio"]) == [0.5, 2.0]
    assert list(frame["latency_us"]) == [7.0, 12.0]


def test_tables_merge_only_under_the_same_conditions(table: LatencyTable, network: Architecture) -> None:
    extra = Block.parse_key(network.with_classes(20).blocks[-1].key)
    later = replace(CONDITIONS, date="2026-12-01", space="other")
    more = LatencyTable(later, {LatencyTable.row_key(BLOCK, [extra]): row(9.0)})
    merged = table.merged(more)
    assert len(merged.rows) == len(table.rows) + 1
    assert merged.total(network.with_classes(20)) == pytest.approx(1.1 * 49)
    other = LatencyTable(replace(CONDITIONS, threads=2), {})
    with pytest.raises(UserError, match="threads is 1 in one and 2 in the other"):
        table.merged(other)
    assert asdict(table.conditions)["date"] == "2026-11-24"


def test_an_estimate_has_no_statistics_but_a_latency(
    table: LatencyTable, network: Architecture, tmp_path: Path
) -> None:
    head = network.with_classes(20).blocks[-1]
    key = LatencyTable.row_key(BLOCK, [head])
    with_estimate = LatencyTable(CONDITIONS, {**table.rows, key: Measurement.estimated(9.0, 0.04)})
    with_estimate.save(tmp_path / "table.csv")
    again = LatencyTable.load(tmp_path / "table.csv")
    assert again.total(network.with_classes(20)) == pytest.approx(1.1 * 49)
    assert (again.rows[key].source, again.rows[key].uncertainty, again.rows[key].runs) == ("estimated", 0.04, 0)
    assert math.isnan(again.rows[key].p90_us)


ROUND_TEXT = (
    "round=0 drift=0.01 cores=2 load_1m=1.5 governor={governor} least_mhz={least} most_mhz=2000.0 "
    "temperature_c=unknown steal_percent={steal} affinity=0-1"
)


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({}, None),
        ({"governor": "unknown", "least": "unknown", "steal": "unknown"}, None),
        ({"governor": "powersave"}, "the governor powersave changes"),
        ({"least": "1500.0"}, "frequency fell to 1500 MHz from 2000"),
        ({"steal": "12.5"}, "went without its processors for 12.5 % of the time"),
    ],
)
def test_what_the_device_said_of_itself_is_warned_of(
    table: LatencyTable, fields: dict[str, str], warning: str | None, tmp_path: Path
) -> None:
    text = ROUND_TEXT.format(**{"governor": "performance", "least": "1950.0", "steal": "0.1", **fields})
    LatencyTable(CONDITIONS, {**table.rows, (ROUND, text): row(5.0)}).save(tmp_path / "table.csv")
    warnings = LatencyTable.load(tmp_path / "table.csv").warnings()
    assert [warning in said for said in warnings] == [True] if warning else warnings == []


def test_rows_of_a_session_of_another_speed_are_warned_of(table: LatencyTable, tmp_path: Path) -> None:
    text = ROUND_TEXT.format(governor="performance", least="1950.0", steal="0.1")
    rows = {key: replace(row, session="a") for key, row in table.rows.items()}
    last = list(rows)[-1]
    rows[last] = replace(rows[last], session="a+b")
    rows |= {(ROUND, f"{text} session={session} speed={speed}"): row(5.0) for session, speed in (("a", 1), ("b", 0.34))}
    LatencyTable(CONDITIONS, rows).save(tmp_path / "table.csv")
    loaded = LatencyTable.load(tmp_path / "table.csv")
    assert dict(loaded.rows) == rows
    (warning,) = loaded.warnings()
    assert warning.startswith("1 rows are of the session of b, in which the reference block took 0.34 times as long")


def test_blocks_that_are_all_equal_are_warned_of(table: LatencyTable) -> None:
    rows = {key: row(5.0) if key[0] == BLOCK else value for key, value in table.rows.items()}
    assert LatencyTable(CONDITIONS, rows).warnings() == ["every block takes the same 5 us, by which none can be chosen"]


def test_a_value_of_thousands_of_digits_is_not_echoed(tmp_path: Path) -> None:
    header, first, *rest = (CASES / "table-longer-line.csv").read_text().replace(",1,2\n", "\n").splitlines()
    (tmp_path / "t.csv").write_text("\n".join([header, first, "1" * 4301 + first.removeprefix("2"), *rest]) + "\n")
    with pytest.raises(UserError, match=r"line 3: schema version 1+\.\.\.1+, but this release reads 2$"):
        LatencyTable.load(tmp_path / "t.csv")


def test_a_table_of_files_that_are_not_the_runtimes_first(tmp_path: Path, network: Architecture) -> None:
    conditions = replace(CONDITIONS, runtime="openvino", format="tflite")
    rows = {LatencyTable.row_key(BLOCK, network.blocks[:1]): row(40.0)}
    LatencyTable(conditions, rows).save(tmp_path / "t.csv")
    found = LatencyTable.load(tmp_path / "t.csv")
    assert found.conditions == conditions
    assert "--runtime openvino --space small --format tflite" in found.command(tmp_path / "t.csv")
    usual = LatencyTable(replace(conditions, format=""), rows)
    assert usual.conditions.format == "onnx"
    with pytest.raises(UserError, match="cannot mix two tables: format is tflite in one and onnx in the other"):
        found.merged(usual)
    usual.save(tmp_path / "u.csv")
    assert ",format," not in (tmp_path / "u.csv").read_text()
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace(",tflite,", ",coreml,"))
    with pytest.raises(UserError, match="line 2: openvino runs no files of the format coreml; it runs onnx, tflite"):
        LatencyTable.load(tmp_path / "t.csv")
