"""The processor of a model that sees: what makes tensors of its images."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ollm_widgets.errors import MalformedModelError, UnsupportedModelError

_VIDEOS = "video_processor"
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_processor(folder: Path) -> Any:
    """Load the processor of a folder; no remote code runs, and nothing is fetched.

    Where torchvision is missing, a processor that would read videos too is loaded without that
    part, which nothing here is given.

    Raises
    ------
    UnsupportedModelError
        If a library is missing that the processor needs for images.
    MalformedModelError
        If transformers cannot read its files, or it takes no images.
    """
    from ollm_widgets.weights.model.building import building

    with building():
        from transformers import AutoProcessor

    try:
        processor = _loaded(AutoProcessor, folder)
    except ImportError as error:
        raise UnsupportedModelError(
            f"The processor in {folder} needs a library that is not installed: "
            f"{_first_line(error)}",
            hint="Install it, or set multimodal=False.",
        ) from error
    except UnsupportedModelError:
        raise
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise MalformedModelError(
            f"The processor in {folder} cannot be read: {error}", hint=_next_step()
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise MalformedModelError(
            f"The processor in {folder} is a {type(processor).__name__}, which takes no images.",
            hint="Set multimodal=False.",
        )
    return processor


def _loaded(factory: Any, folder: Path) -> Any:
    try:
        return factory.from_pretrained(folder, **_LOCAL)
    except ImportError:
        return _without_videos(folder)


def _without_videos(folder: Path) -> Any:
    """Load a processor whose part for videos is missing, as transformers loads it otherwise."""
    from transformers import AutoTokenizer

    # Under its public name it asks for torchvision in some releases, which its classes need not.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    kind = _kind_of(folder)
    factories: dict[str, Any] = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}

    class WithoutVideos(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def _get_arguments_from_pretrained(
            cls, name: Any, *_given: Any, **options: Any
        ) -> list[Any]:
            return [
                None if part == _VIDEOS else factories[part].from_pretrained(name, **options)
                for part in cls.get_attributes()
            ]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == _VIDEOS and argument is None:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

    WithoutVideos.__name__ = kind.__name__
    return WithoutVideos.from_pretrained(folder, **_LOCAL)


def _kind_of(folder: Path) -> Any:
    """The class of a folder's processor, by its files or by the model's config."""
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import (
        PROCESSOR_MAPPING,
        processor_class_from_name,
    )

    from ollm_widgets.models.config_file import read_json_object

    for name in ("processor_config.json", "preprocessor_config.json"):
        file = folder / name
        named = read_json_object(file).get("processor_class") if file.is_file() else None
        found = processor_class_from_name(named) if isinstance(named, str) else None
        if found is not None:
            return found
    return PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(folder, **_LOCAL))]


def _next_step() -> str:
    again = "Get its files again from where they came"
    if find_spec("torchvision") is not None:
        return f"{again}."
    return f"{again}, or install torchvision, which some processors need."


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in f"{error}".splitlines() if line.strip()), "unknown")
