"""Folders as they come from cameras, notebooks and network drives."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fbnet_mobile.data.data import load_data
from fbnet_mobile.data.sources import Source, open_source
from fbnet_mobile.errors import UserError

MakeFolder = Callable[..., Path]


def opened(folder: Path) -> Source:
    return open_source(str(folder), None)


def counts(source: Source) -> dict[str, list[int]]:
    return {part: images.labels.bincount().tolist() for part, images in source.parts.items()}


def test_hidden_folders_and_thumbnails_are_neither_classes_nor_images(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"a": 5, "b": 5})
    for place in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "a/.ipynb_checkpoints", "a/@eaDir", "b/Thumbs"):
        shutil.copytree(folder / "b", folder / place, ignore=lambda *_: ["Thumbs"])
    shutil.copy(folder / "a" / "0.png", folder / "a" / "._0.png")

    source = opened(folder)

    assert source.classes == ("a", "b")
    assert counts(source) == {"train": [5, 5]}
    assert source.skipped == {"hidden or thumbnail": 7}
    assert load_data(str(folder), resolution=8).classes == ("a", "b")
    assert capsys.readouterr().err == f"{folder}: left out 7 hidden or thumbnail\n"


def test_a_class_may_be_called_thumbs_or_train(make_folder: MakeFolder) -> None:
    assert opened(make_folder({"train": 5, "thumbs": 4, "bus": 5})).classes == ("bus", "thumbs", "train")


@pytest.mark.parametrize(
    "names",
    [("Train", "Val", "Test"), ("training", "validation", "testing"), ("TRAIN", "valid", "tst")],
)
def test_parts_are_known_by_their_usual_names(make_folder: MakeFolder, names: tuple[str, str, str]) -> None:
    train, val, test = names
    folder = make_folder({f"{train}/a": 3, f"{train}/b": 3, f"{val}/a": 2, f"{val}/b": 1, f"{test}/b": 4})
    (folder / val / ".cache").mkdir()

    source = opened(folder)

    assert source.classes == ("a", "b")
    assert counts(source) == {"train": [3, 3], "val": [2, 1], "test": [0, 4]}


def test_each_folder_is_read_once_whatever_links_lead_to_it(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 5})
    elsewhere = make_folder({"../elsewhere/deep/c": 3})  # a class that is kept in another place is read
    (folder / "c").symlink_to(elsewhere / ".." / "elsewhere")
    (folder / "a" / "up").symlink_to("..")
    (folder / "a" / "self").symlink_to(".")
    (folder / "a" / "b").symlink_to("../b")
    (folder / "b" / "loop").symlink_to("loop")
    (folder / "b" / "lost.png").symlink_to("nowhere.png")

    source = opened(folder)

    assert counts(source) == {"train": [5, 5, 3]}
    assert source.skipped == {
        "links to folders that are read already": 3,
        "no images": 1,
        "pipes, sockets, devices or links that lead nowhere": 1,
    }


@pytest.mark.parametrize("target", ["/", "/usr", "..", "."])
def test_a_class_that_is_a_link_to_more_than_a_class_is_refused(target: str, make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 5})
    (folder / "c").symlink_to(target)
    with pytest.raises(
        UserError, match=r"the class folder .*/c is a link to /.*, which holds more than a class; remove"
    ):
        opened(folder)


def test_a_link_to_a_folder_of_the_system_is_not_followed(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 5})
    (folder / "a" / "c").symlink_to("/usr")
    assert opened(folder).skipped == {"links to folders of the system": 1}


def test_a_pipe_that_is_called_as_an_image_is_not_opened(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 5})
    os.mkfifo(folder / "a" / "x.jpg")

    source = opened(folder)

    assert counts(source) == {"train": [5, 5]}
    assert source.skipped == {"pipes, sockets, devices or links that lead nowhere": 1}


def test_every_format_that_pillow_reads_is_read_and_others_are_counted(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 5})
    for suffix in (".JFIF", ".gif", ".avif", ".jp2", ".webp", ".tiff", ".bmp", ".ppm"):
        Image.new("RGB", (16, 16), (200, 0, 0)).save(folder / "b" / f"more{suffix}")
    for number in range(3):
        (folder / "b" / f"{number}.heic").write_bytes(b"ftypheic")
    (folder / "b" / "labels.csv").touch()
    (folder / "cover.png").touch()

    source = opened(folder)

    assert counts(source) == {"train": [5, 13]}
    assert source.skipped == {
        ".heic files, which this Pillow cannot read": 3,
        "images outside the class folders": 1,
        "no images": 1,
    }
    data = load_data(str(folder), resolution=8)
    assert len(data.train) + len(data.val) + len(data.test) == 18


def test_a_class_of_unreadable_formats_says_so(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 0})
    (folder / "b" / "0.heic").touch()
    with pytest.raises(UserError, match=r"b holds no images \(1 \.heic files, which this Pillow cannot read\)"):
        opened(folder)


@pytest.mark.parametrize(("name", "shown"), [(b"caf\xe9", r"caf\\xe9"), (b"two\nlines", r"two\\nlines")])
def test_a_class_name_that_no_file_could_hold_is_refused(make_folder: MakeFolder, name: bytes, shown: str) -> None:
    folder = make_folder({"a": 5, "b": 5})
    (folder / "b").rename(folder / os.fsdecode(name))
    with pytest.raises(UserError, match=f"is called {shown}, which is no printable UTF-8 text; rename it$"):
        opened(folder)


def test_an_image_name_that_is_not_utf8_is_shown_on_one_line(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 5})
    (folder / "a" / os.fsdecode(b"\xe9\n.png")).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^cannot decode .*a/\\xe9\\n.png: it is no image of a format that is read;"):
        load_data(str(folder), resolution=8)


@pytest.mark.parametrize("place", ["/", "/etc", "/proc", "/proc/self", "/usr"])
def test_a_folder_of_the_system_is_refused_at_once(place: str) -> None:
    with pytest.raises(UserError, match=r"^/\S* is a folder of the system; give the folder with one sub-folder"):
        opened(Path(place))


def test_a_scan_that_finds_hardly_any_images_is_given_up(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder({"a": 5, "b": 5})
    for number in range(30):
        (folder / "b" / f"{number}.txt").touch()
    monkeypatch.setattr("fbnet_mobile.data.sources.folder._MOST_OTHERS", 20)
    with pytest.raises(UserError, match="more than 20 files that are no images"):
        opened(folder)


def test_an_eps_file_in_disguise_is_not_run(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 5})
    Image.new("RGB", (16, 16)).save(folder / "a" / "x.jpg", format="EPS")
    with pytest.raises(UserError, match=r"x\.jpg: it is no image of a format that is read"):
        load_data(str(folder), resolution=8)


def test_the_fingerprint_changes_with_the_images_and_with_how_they_are_divided(make_folder: MakeFolder) -> None:
    folder = make_folder({"a": 5, "b": 5})

    def fingerprint(**options: int) -> str:
        return load_data(str(folder), resolution=8, show_progress=False, **options).fingerprint

    first = fingerprint()
    assert first == fingerprint()
    moved = folder.rename(folder.with_name("elsewhere"))
    moved.rename(folder)
    assert first == fingerprint()
    changed = {first, fingerprint(seed=1), fingerprint(limit=4)}
    status = (folder / "a" / "0.png").stat()
    os.utime(folder / "a" / "0.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed.add(fingerprint())
    (folder / "a" / "0.png").rename(folder / "b" / "10.png")
    changed.add(fingerprint())
    assert len(changed) == 5
    assert load_data("digits", resolution=8).fingerprint == load_data("digits", resolution=16).fingerprint
