"""Images that a message brings: opened with care, since anybody may have made them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ollm_widgets.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

# Others have decoders that run programs, or that few people test.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
# Pillow's own limit against decompression bombs, at which it only warns: 256 MiB of RGB.
MOST_PIXELS = 89_478_485
MOST_FILE_BYTES = 64 * 2**20
MOST_IMAGES = 64
# Where a part of type "image" may have it.
SOURCES = ("image", "path", "url")


def open_image(part: Mapping[str, Any], at: str, most_pixels: int = MOST_PIXELS) -> Image:
    """Open the image of one part of a message; the network is never asked.

    Parameters
    ----------
    part
        Has one of ``image`` (a Pillow image, the bytes of a file, or a path), ``path``, and
        ``url`` (of a local file).
    at
        Where it is, for messages: ``messages[0].content[1]``.
    most_pixels
        What is larger is not decoded.

    Returns
    -------
    PIL.Image.Image
        RGB and upright, a copy; of an animation the first picture.

    Raises
    ------
    ConfigError
        If there is no image, or one that is damaged, too large or elsewhere than on this machine;
        or Pillow is not installed.
    """
    given = [part[name] for name in SOURCES if part.get(name) is not None]
    if len(given) != 1:
        raise ConfigError(
            at, f"an image part needs one of {', '.join(SOURCES)}, got {len(given)} of them."
        )
    module, operations = _pillow(at)
    try:
        image = given[0]
        if not isinstance(image, module.Image):
            image = module.open(io.BytesIO(_file_bytes(image, at)), formats=FORMATS)
        width, height = image.size
        if width * height > most_pixels:
            raise _too_many(at, f"the image has {width:,} by {height:,} pixels", most_pixels)
        upright: Image = operations.exif_transpose(image).convert("RGB")
    except (module.DecompressionBombError, module.DecompressionBombWarning):
        raise _too_many(at, "the image has too many pixels to be decoded", most_pixels) from None
    except ConfigError:
        raise
    except Exception as error:  # a decoder fails in many ways on what is damaged
        raise ConfigError(
            at,
            f"this cannot be read as an image ({type(error).__name__}).",
            hint=f"Formats that can: {', '.join(FORMATS)}.",
        ) from error
    return upright


def _file_bytes(source: Any, at: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        size_bytes = memoryview(source).nbytes
        if size_bytes > MOST_FILE_BYTES:
            raise _too_long(at, size_bytes)
        return bytes(source)
    if not isinstance(source, str | Path):
        raise ConfigError(
            at,
            f"an image is a Pillow image, the bytes of a file, or a path, not a "
            f"{type(source).__name__}.",
        )
    path = _local_path(source, at)
    try:
        size_bytes = path.stat().st_size
        if not path.is_file():
            raise ConfigError(at, f"{path} is no regular file.", hint="Name an image file.")
        if size_bytes > MOST_FILE_BYTES:
            raise _too_long(at, size_bytes)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(at, f"{path} cannot be read: {error}.", hint="Check the path.") from error


def _local_path(source: str | Path, at: str) -> Path:
    if isinstance(source, Path):
        return source.expanduser()
    scheme = urlsplit(source).scheme if "://" in source or source.startswith("data:") else ""
    if scheme == "file":
        parts = urlsplit(source)
        if parts.netloc in ("", "localhost"):
            return Path(unquote(parts.path))
    if scheme:
        raise ConfigError(
            at,
            f"an image is never fetched, and {scheme}:... is no file on this machine.",
            hint="Save it to a file and name that, or pass its bytes.",
        )
    return Path(source).expanduser()


def _too_many(at: str, what: str, most_pixels: int) -> ConfigError:
    return ConfigError(
        at, f"{what}; an image may have {most_pixels:,}.", hint="Make it smaller first."
    )


def _too_long(at: str, size_bytes: int) -> ConfigError:
    return ConfigError(
        at,
        f"the image file has {size_bytes:,} bytes; at most {MOST_FILE_BYTES:,} are read.",
        hint="Make it smaller first.",
    )


def _pillow(at: str) -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ConfigError(
            at,
            "reading images needs Pillow, which is not installed.",
            hint="Run pip install 'ollm-widgets[images]'.",
        ) from None
    return Image, ImageOps
