"""Images from anybody: opened where they are what they say, refused with a reason elsewhere."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.images import FORMATS, MOST_FILE_BYTES, MOST_PIXELS, open_image
from tests.runtime.seeing_models import picture

AT = "messages[0].content[0]"


def opened(image: Any) -> Image.Image:
    return open_image({"type": "image", "image": image}, AT)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG file that says how large it is, and has next to nothing in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read(kind: str) -> None:
    image = opened(file_of(picture(1), kind))
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_an_image_is_the_same_from_wherever_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    picture(1).save(path)
    pixels = picture(1).tobytes()
    parts: list[dict[str, Any]] = [
        {"image": picture(1)},
        {"image": path.read_bytes()},
        {"image": bytearray(path.read_bytes())},
        {"image": path},
        {"image": str(path)},
        {"path": str(path)},
        {"path": path, "url": None},
        {"url": path.as_uri()},
    ]
    assert all(open_image(part, AT).tobytes() == pixels for part in parts)


def test_an_image_comes_upright_and_without_transparency() -> None:
    turned = Image.new("RGBA", (40, 30), (10, 20, 30, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image = opened(file_of(turned, "PNG", exif=exif))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (30, 40), (10, 20, 30))


def test_the_image_that_was_given_stays_as_it_is() -> None:
    given = Image.new("L", (4, 4), 7)
    assert opened(given) is not given
    assert given.mode == "L"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.png",
        "HTTP://localhost/a.png",
        "ftp://example.org/a.png",
        "file://example.org/a.png",
        "data:image/png;base64,AAAA",
        "s3://bucket/a.png",
    ],
)
def test_nothing_is_fetched(url: str) -> None:
    for name in ("image", "path", "url"):
        with pytest.raises(ConfigError, match="never fetched"):
            open_image({name: url}, AT)


@pytest.mark.parametrize(
    "size", [(MOST_PIXELS + 1, 1), (30_000, 3_000), (2**31 - 1, 2**31 - 1)], ids=str
)
def test_a_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"89,478,485.*Make it smaller"):
        opened(claiming(*size))


def test_a_bomb_that_is_open_already_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(claiming(10_000, 10_000))
    with pytest.warns(Image.DecompressionBombWarning):
        image = Image.open(path)
    with image, pytest.raises(ConfigError, match="10,000 by 10,000 pixels"):
        opened(image)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    with path.open("wb") as file:
        file.truncate(MOST_FILE_BYTES + 1)
    for long in (path, bytes(MOST_FILE_BYTES + 1)):
        with pytest.raises(ConfigError, match="67,108,865 bytes; at most 67,108,864"):
            opened(long)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.png cannot be read"):
        opened(tmp_path / "none.png")
    with pytest.raises(ConfigError, match="no regular file"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        opened("a\0b")


@pytest.mark.parametrize("part", [{}, {"image": None}, {"image": b"a", "path": "a.png"}], ids=str)
def test_a_part_has_one_image(part: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="of them"):
        open_image(part, AT)


def test_what_is_no_image_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a int"):
        opened(3)


def test_formats_that_run_programs_are_never_tried() -> None:
    script = file_of(Image.new("RGB", (4, 4)), "EPS")
    with pytest.raises(ConfigError, match="cannot be read as an image"):
        opened(script)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(FORMATS))
    whole = bytearray(file_of(picture(3, 12, 9), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        image = opened(bytes(whole[:cut]))
    except ConfigError:
        return
    assert image.mode == "RGB"


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install 'ollm-widgets\[images\]'"):
        opened(image)
