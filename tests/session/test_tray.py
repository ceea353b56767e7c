from __future__ import annotations

import io
import struct
import threading
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import ConfigError
from ollm_widgets.session.attachments import (
    MOST_FILES,
    MOST_TEXT_BYTES,
    Attachment,
    clean_name,
    fenced,
    kind_of,
    with_files,
)
from ollm_widgets.session.tray import Tray

NO_IMAGES = "tiny takes text only."


class Told:
    """Counts changes, and waits for the one that makes something true."""

    def __init__(self) -> None:
        self._changes = threading.Semaphore(0)

    def __call__(self, *_parts: str, job: str | None = None) -> None:
        self._changes.release()

    def until(self, holds: Any) -> None:
        while not holds():
            assert self._changes.acquire(timeout=15)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def tray(told: Told) -> Tray:
    return Tray(threading.RLock(), told)


def names(tray: Tray) -> list[str]:
    return [one.name for one in tray.items]


# ---------------------------------------------------------------------- text


def test_a_text_file_comes_in_pieces_and_goes_with_the_next_question(tray: Tray) -> None:
    data = "Grüße".encode()
    tray.receive("a", "notes.txt", data[:3], last=False)
    assert tray.items == ()
    tray.receive("b", "data.csv", b"x,y\r\n1,2\r\n", last=True, images=NO_IMAGES)
    tray.receive("a", "notes.txt", data[3:], last=True)
    taken = tray.take()
    assert [(one.name, one.text, one.size_bytes) for one in taken] == [
        ("data.csv", "x,y\n1,2\n", 10),
        ("notes.txt", "Grüße", 7),
    ]
    assert len({one.id for one in taken}) == 2
    assert tray.items == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe\x00", "neither text in UTF-8 nor"),
        (b"a\x00b", "neither text in UTF-8 nor"),
        (b" \n", "is empty"),
        (b"", "is empty"),
        (b"x" * (MOST_TEXT_BYTES + 1), "a text file may have 1.0 MB"),
        (b"\x89PNG\r\n\x1a\n...", NO_IMAGES),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name_and_leaves_the_rest(
    tray: Tray, data: bytes, said: str
) -> None:
    tray.receive("a", "good.txt", b"good", last=True)
    with pytest.raises(ConfigError, match=said) as caught:
        tray.receive("b", "bad.bin", data, last=True, images=NO_IMAGES)
    assert caught.value.message.startswith("bad.bin: ")
    assert caught.value.hint
    assert names(tray) == ["good.txt"]
    # What was refused is forgotten, so that the same upload may begin anew.
    tray.receive("b", "bad.bin", b"now text", last=True)
    assert names(tray) == ["good.txt", "bad.bin"]


def test_a_file_that_grows_too_large_is_refused_before_it_is_whole(tray: Tray) -> None:
    tray.receive("a", "big.txt", b"x" * MOST_TEXT_BYTES, last=False)
    with pytest.raises(ConfigError, match="Make it smaller"):
        tray.receive("a", "big.txt", b"x", last=False)


def test_uploads_that_were_left_midway_give_way(tray: Tray) -> None:
    for number in range(20):
        tray.receive(str(number), "half.txt", b"x" * 1000, last=False)
    tray.receive("0", "half.txt", b"y", last=True)
    tray.receive("19", "half.txt", b"y", last=True)
    assert [one.size_bytes for one in tray.items] == [1, 1001]


def test_a_question_takes_only_so_many_files(tray: Tray) -> None:
    for number in range(MOST_FILES):
        tray.receive(str(number), f"{number}.txt", b"x", last=True)
    with pytest.raises(ConfigError, match="at most 8 files"):
        tray.receive("more", "more.txt", b"x", last=True)
    tray.remove(tray.items[3].id)
    tray.remove("file-99")
    tray.receive("more", "more.txt", b"x", last=True)
    assert names(tray) == [
        *("0.txt", "1.txt", "2.txt"),
        *(f"{n}.txt" for n in range(4, 8)),
        "more.txt",
    ]


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("notes.txt", "notes.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a b.py", "a b.py"),
        ("a\n`b`.md", "a'b'.md"),
        ("photo\u202egnp.exe", "photognp.exe"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("", "file"),
        ("x\x00/", "file"),
    ],
)
def test_a_name_keeps_only_what_shows_as_itself(name: str, clean: str) -> None:
    assert clean_name(name) == clean


@given(st.text(max_size=400))
def test_any_name_becomes_one_short_line(name: str) -> None:
    clean = clean_name(name)
    assert 0 < len(clean) <= 120
    assert clean.isprintable()
    assert clean == clean_name(clean)


@given(st.text(alphabet="`a\n", max_size=60))
def test_a_file_cannot_close_its_own_fence(text: str) -> None:
    first, fence, *rest = fenced("a.py", text).split("\n")
    assert first == "File `a.py`:"
    marks = fence.removesuffix("py")
    assert set(marks) == {"`"}
    assert rest[-1] == marks
    assert all(marks not in line for line in rest[:-1])


def test_text_files_come_before_the_question_and_images_apart() -> None:
    files = (
        Attachment("1", "a.csv", "text", 3, "x,y"),
        Attachment("2", "b.png", "image", 3, image=b"..."),
    )
    assert with_files("What is it?", files) == "File `a.csv`:\n```csv\nx,y\n```\n\nWhat is it?"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"BM is a text", "text"),
        (b"RIFF1234WAVE", "text"),
        (b"RIFF1234WEBP", "image"),
        (b"", "text"),
    ],
)
def test_an_image_is_known_by_how_it_begins(data: bytes, kind: str) -> None:
    assert kind_of(data) == kind


# ---------------------------------------------------------------------- images


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 20), **options: Any) -> bytes:
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("RGB", size, (200, 30, 30)).save(file, kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 60,000 by 60,000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 9))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_an_image_is_decoded_and_gets_a_thumbnail(tray: Tray, told: Told, kind: str) -> None:
    from ollm_widgets.runtime.images import open_image

    data = picture(kind, (400, 200))
    tray.receive("a", "photo", data, last=True)
    told.until(lambda: tray.items)
    (image,) = tray.take()
    assert (image.kind, image.image) == ("image", data)
    assert image.thumbnail.startswith("data:image/jpeg;base64,")
    assert len(image.thumbnail) < 10_000
    decoded = open_image({"image": image.image}, image.name)
    assert (decoded.mode, decoded.size) == ("RGB", (400, 200))


def test_while_an_image_is_read_nothing_is_taken(tray: Tray) -> None:
    tray.reading = (Attachment("file-1", "photo.png", "image", 9),)
    with pytest.raises(ConfigError, match="still being read"):
        tray.take()
    tray.remove("file-1")
    assert tray.take() == ()


def test_a_photo_is_turned_upright() -> None:
    from ollm_widgets.runtime.images import open_image

    exif = pytest.importorskip("PIL.Image").Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert open_image({"image": picture("JPEG", (40, 20), exif=exif)}, "photo").size == (20, 40)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: picture()[:60], "cannot be read as an image"),
        (lambda: b"\x89PNG\r\n\x1a\n" + b"x" * 50, "cannot be read as an image"),
        (bomb, "too many pixels"),
        (lambda: picture("PNG", (8_000, 6_300)), "8,000 by 6,300 pixels; an image may have"),
    ],
)
def test_an_image_that_cannot_be_trusted_is_put_away_with_its_reason(
    tray: Tray, told: Told, make: Any, said: str
) -> None:
    tray.receive("a", "photo.png", make(), last=True)
    told.until(lambda: tray.problem)
    assert said in tray.problem
    assert (tray.items, tray.reading) == ((), ())
    tray.receive("b", "notes.txt", b"x", last=True)
    assert tray.problem == ""
