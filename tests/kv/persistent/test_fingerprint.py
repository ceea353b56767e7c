"""What tells one model from another, without reading it whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ollm_widgets.kv.persistent.fingerprint import Fingerprint, fingerprint_of
from ollm_widgets.models.digests import remember_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two files, one tensor of which is large."""
    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for number in range(2):
        tensors = {f"layer.{each}": torch.randn(40, 50) for each in range(6)}
        save_file(tensors, folder / f"model-{number}.safetensors")
    return folder


def digest(folder: Path, **setting: str) -> str:
    known = {"model": "m", "dtype": "float32", "device": "cpu"}
    return fingerprint_of(folder, digests=(), **(known | setting)).digest


def keeping_times(path: Path, content: bytes) -> None:
    """Write a file anew as if it had not been."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_same_files_have_the_same_fingerprint(folder: Path) -> None:
    assert digest(folder) == digest(folder)
    assert digest(folder, model="another name for people") == digest(folder)


@pytest.mark.parametrize("tensor", range(12))
def test_a_change_in_any_tensor_is_another_model(folder: Path, tensor: int) -> None:
    before = digest(folder)
    path = folder / f"model-{tensor % 2}.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    middle = header + (tensor // 2) * 8000 + 4000
    content[middle] ^= 1
    keeping_times(path, bytes(content))
    assert digest(folder) != before


def test_a_file_that_was_written_anew_is_another_model(folder: Path) -> None:
    before = digest(folder)
    path = folder / "model-0.safetensors"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert digest(folder) != before


@pytest.mark.parametrize("change", ["rename", "remove", "config", "header"])
def test_other_files_are_another_model(folder: Path, change: str) -> None:
    before = digest(folder)
    path = folder / "model-0.safetensors"
    if change == "rename":
        path.rename(folder / "model-9.safetensors")
    elif change == "remove":
        path.unlink()
    elif change == "config":
        (folder / "config.json").write_text('{"model_type": "llama", "rope_theta": 2}')
    else:
        keeping_times(path, path.read_bytes().replace(b"layer.5", b"layer.6", 1))
    assert digest(folder) != before


def test_every_setting_has_a_store_of_its_own(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    save_file({"a": torch.ones(3)}, adapter / "adapter_model.safetensors")
    plain = fingerprint_of(folder, model="m", dtype="float32", device="cpu", digests=())
    adapted = fingerprint_of(
        folder, model="m", dtype="float32", device="cpu", digests=(), adapter_dir=adapter
    )
    others = [
        replace(plain, dtype="bfloat16"),
        replace(plain, device="cuda"),
        replace(plain, codec="int4"),
        replace(plain, attention="window 256"),
        replace(plain, libraries="5.1"),
        replace(plain, format_version=2),
        adapted,
    ]
    assert len({each.digest for each in [plain, *others]}) == 8


def test_devices_and_dtypes_of_one_kind_share(folder: Path) -> None:
    assert digest(folder, device="cuda:1") == digest(folder, device="cuda")
    assert digest(folder, dtype="torch.float32") == digest(folder)


def test_the_hub_cache_is_believed_whatever_the_time_of_its_files(
    folder: Path, tmp_path: Path
) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = blobs / (f"{number:064x}" if path.suffix == ".safetensors" else f"{number:040x}")
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    before = digest(snapshot)
    for blob in blobs.iterdir():
        os.utime(blob, ns=(0, 0))
    assert digest(snapshot) == before
    first = snapshot / "model-0.safetensors"
    target = first.resolve()
    renamed = target.rename(blobs / f"{99:064x}")
    first.unlink()
    first.symlink_to(renamed)
    assert digest(snapshot) != before


def test_remembered_digests_are_believed(folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "digests.json"

    def known() -> str:
        return fingerprint_of(
            folder, model="m", dtype="float32", device="cpu", digests=(memory,)
        ).digest

    for path in folder.glob("*.safetensors"):
        remember_digest(path, memory, f"{1:064x}")
    before = known()
    for path in folder.glob("*.safetensors"):
        os.utime(path, ns=(0, 7))
        remember_digest(path, memory, f"{1:064x}")
    assert known() == before
    remember_digest(folder / "model-0.safetensors", memory, f"{2:064x}")
    assert known() != before


def test_a_single_file_and_one_that_is_no_safetensors_have_one_too(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(100_000))
    before = digest(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    keeping_times(path, bytes(content))
    assert digest(path) != before


def test_an_empty_folder_is_told_from_a_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert digest(tmp_path / "empty") != digest(folder)


def test_it_is_made_without_torch_and_in_a_moment_of_a_large_file(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    path = folder / "model.safetensors"
    save_file({"small": torch.zeros(4)}, path)
    os.truncate(path, 16_000_000_000)  # sparse: nothing is written
    program = (
        "import sys; from pathlib import Path\n"
        "from ollm_widgets.kv.persistent.fingerprint import fingerprint_of\n"
        "import ollm_widgets.kv.persistent.inventory\n"
        f"fingerprint_of(Path({str(folder)!r}), model='m', dtype='float32', device='cpu')\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "[]"


def test_the_digest_does_not_change_between_versions_of_this_package() -> None:
    fingerprint = Fingerprint("m", "w", "c", "", "float32", "cpu", "full", "exact", "5.23")
    assert fingerprint.digest == "890a57bccfdc0a2313998347a00294a2"
