"""What a request carries to another machine means the same there."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest

from ollm_widgets.cluster.far.crossing import carried
from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.images import open_image

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def asking_about(part: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.effect_noise((31, 17), 90).convert("RGB").save(path)
    return path


def test_texts_cross_as_they_are() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    assert carried("Hello") == "Hello"
    assert carried(messages) == messages


def test_an_image_crosses_without_a_change_however_it_was_given(picture: Path) -> None:
    pixels = open_image({"image": picture}, "here").tobytes()
    given = (
        {"type": "image", "image": str(picture)},
        {"type": "image", "path": picture},
        {"type": "image", "url": picture.as_uri()},
        {"type": "image", "image": Image.open(picture)},
        {"type": "image", "image": picture.read_bytes()},
    )
    for part in given:
        crossed = pickle.loads(pickle.dumps(carried(asking_about(part))))
        text, image = crossed[0]["content"]
        assert text["text"] == "What is it?"
        assert isinstance(image["image"], bytes)
        assert open_image(image, "there").tobytes() == pixels


def test_a_file_that_is_not_here_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"messages\[0\].content\[1\]: .* cannot be read"):
        carried(asking_about({"type": "image", "path": str(tmp_path / "none.png")}))


def test_what_is_no_image_is_refused_before_it_crosses() -> None:
    part = {"type": "image", "image": io.BytesIO(b"GIF")}
    with pytest.raises(ConfigError):
        carried(asking_about(part))
