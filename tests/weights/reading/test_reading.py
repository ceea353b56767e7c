from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ollm_widgets.errors import (
    Cancelled,
    CheckpointChangedError,
    RuntimeClosedError,
    WeightReadError,
)
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipe import Piece, TensorRecipe
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.reading.plan import ITEM_BYTES
from ollm_widgets.weights.reading.reader import WeightReader
from tests.models.architectures import ARCHITECTURES
from tests.weights.checkpoints import as_it_is, index_of, model_on_meta, save_tiny

MODES = pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
LARGE = 3 * ITEM_BYTES + 4321


def layout_of(index: CheckpointIndex) -> LayerLayout:
    return LayerLayout.of("", [as_it_is(span) for span in index.spans.values()])


def empty(size_bytes: int) -> torch.Tensor:
    return torch.full((size_bytes,), 0xAA, dtype=torch.uint8)


def open_files(folder: Path) -> int:
    """How many files of a folder this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += entry.readlink().is_relative_to(folder)
    return count


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> CheckpointIndex:
    """Tensors of several items, of odd sizes, so that no edge of one is an edge of another."""
    torch.manual_seed(0)
    return index_of(
        tmp_path_factory.mktemp("large"),
        small=torch.randn(3).to(torch.bfloat16),
        big=torch.randint(0, 256, (LARGE,), dtype=torch.uint8),
        other=torch.randn(1001, 77),
        last=torch.randint(0, 256, (ITEM_BYTES - 1,), dtype=torch.uint8),
    )


@MODES
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_large_and_small_tensors_arrive_whole(
    large: CheckpointIndex, direct: bool, threads: int
) -> None:
    expected = load_file(next(iter(large.identities)))
    layout = layout_of(large)
    buffer = empty(layout.size_bytes)
    with WeightReader(large, threads=threads, direct=direct) as reader:
        for _ in range(2):
            buffer.fill_(0xAA)
            reader.read(layout, buffer).wait()
            views = layout.views(buffer)
            assert all(torch.equal(views[name], tensor) for name, tensor in expected.items())


@MODES
def test_nothing_outside_the_tensors_is_written(large: CheckpointIndex, direct: bool) -> None:
    layout = layout_of(large)
    buffer = empty(layout.size_bytes + 5000)
    with WeightReader(large, direct=direct) as reader:
        reader.read(layout, buffer).wait()
    touched = torch.zeros(len(buffer), dtype=torch.bool)
    for slot in layout.slots:
        touched[slot.offset_bytes : slot.offset_bytes + slot.size_bytes] = True
    assert torch.all(buffer[~touched] == 0xAA)


DTYPES = st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.uint8])


@st.composite
def scattered(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], list[tuple[int, ...]]]:
    """Checkpoint tensors, and how runs of them are shuffled into one module tensor each."""
    tensors: dict[str, torch.Tensor] = {}
    for number in range(draw(st.integers(1, 4))):
        rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 2000))
        values = torch.randint(0, 100, (rows, width))
        tensors[f"t{number}"] = values.to(draw(DTYPES))
    orders = [tuple(draw(st.permutations(range(t.shape[0])))) for t in tensors.values()]
    return tensors, orders


@MODES
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=scattered(), dtype=DTYPES, data=st.data())
def test_any_pieces_and_rows_land_where_they_should(
    tmp_path: Path,
    direct: bool,
    case: tuple[dict[str, torch.Tensor], list[tuple[int, ...]]],
    dtype: torch.dtype,
    data: st.DataObject,
) -> None:
    tensors, orders = case
    index = index_of(tmp_path, **tensors)
    recipes = []
    for (name, tensor), order in zip(tensors.items(), orders, strict=True):
        span, row = index.spans[name], tensor[0].nbytes
        pieces = tuple(
            Piece(span, source * row, row, place * tensor.shape[1])
            for place, source in enumerate(order)
        )
        recipes.append(TensorRecipe(name, dtype, tuple(tensor.shape), pieces, None))
    layout = LayerLayout.of("", recipes)
    buffer = empty(layout.size_bytes)
    with WeightReader(index, threads=2, direct=direct) as reader:
        reader.read(layout, buffer).wait()
        views = layout.views(buffer)
        for recipe, (name, tensor), order in zip(recipes, tensors.items(), orders, strict=True):
            expected = tensor[list(order)].to(dtype)
            assert torch.equal(views[name], expected)
            rows = data.draw(st.lists(st.integers(0, tensor.shape[0] - 1), max_size=5))
            out = torch.empty(len(rows), tensor.shape[1], dtype=dtype)
            reader.read_rows(recipe, rows, out).wait()
            assert torch.equal(out, expected[rows])


@MODES
def test_a_large_tensor_is_cast_on_the_way(tmp_path: Path, direct: bool) -> None:
    torch.manual_seed(0)
    stored = torch.randn(ITEM_BYTES // 2 + 77)
    index = index_of(tmp_path, pad=torch.zeros(3, dtype=torch.uint8), w=stored)
    for dtype in (torch.bfloat16, torch.float64):
        layout = LayerLayout.of("", [as_it_is(index.spans["w"], dtype)])
        buffer = empty(layout.size_bytes)
        with WeightReader(index, direct=direct) as reader:
            reader.read(layout, buffer).wait()
        assert torch.equal(layout.views(buffer)["w"], stored.to(dtype))


def test_a_buffer_of_inference_mode_takes_casts(tmp_path: Path) -> None:
    index = index_of(tmp_path, w=torch.randn(100))
    layout = LayerLayout.of("", [as_it_is(index.spans["w"], torch.float16)])
    with torch.inference_mode(), WeightReader(index) as reader:
        buffer = empty(layout.size_bytes)
        reader.read(layout, buffer).wait()
        views = layout.views(buffer)
        assert torch.equal(views["w"], load_file(index.spans["w"].path)["w"].half())


def test_rows_of_fused_experts_come_from_their_own_tensors(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    architecture = next(each for each in ARCHITECTURES if each.model_type == "qwen3_moe")
    folder = save_tiny(architecture, tmp_path)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()[name]
    index = CheckpointIndex.of(folder)
    recipe = recipes_for(model_on_meta(folder, torch.bfloat16), index)[name]
    rows = [3, 0, 3]
    out = torch.empty(3, *recipe.shape[1:], dtype=recipe.dtype)
    with WeightReader(index) as reader:
        reader.read_rows(recipe, rows, out).wait()
    assert torch.equal(out, expected[rows])


def test_rows_of_a_converted_tensor_are_converted(tmp_path: Path) -> None:
    from tests.weights.checkpoint.test_recipes import MORE

    architecture = next(each for each in MORE if each.model_type == "ernie4_5_vl_moe")
    folder = save_tiny(architecture, tmp_path)
    index = CheckpointIndex.of(folder)
    recipes = recipes_for(model_on_meta(folder, torch.float32, architecture.kind), index)
    recipe = next(each for each in recipes.values() if each.conversion is not None)
    assert recipe.conversion is not None
    (span,) = recipe.conversion.spans
    out = torch.empty(2, *recipe.shape[1:])
    with WeightReader(index) as reader:
        reader.read_rows(recipe, [3, 1], out).wait()
    assert torch.equal(out, load_file(span.path)[span.name].float().T[[3, 1]])


@pytest.mark.parametrize("rows", [[4], [-1], [0, 99]])
def test_rows_that_do_not_exist_are_refused(tmp_path: Path, rows: list[int]) -> None:
    index = index_of(tmp_path, w=torch.zeros(4, 2))
    with WeightReader(index) as reader, pytest.raises(IndexError, match=r"w is \[4, 2\]"):
        reader.read_rows(as_it_is(index.spans["w"]), rows, torch.empty(len(rows), 2))


def test_a_buffer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    index = index_of(tmp_path, w=torch.zeros(4, 2))
    layout, recipe = layout_of(index), as_it_is(index.spans["w"])
    with WeightReader(index) as reader:
        with pytest.raises(ValueError, match="512 are needed"):
            reader.read(layout, empty(100))
        with pytest.raises(ValueError, match="not on meta"):
            reader.read(layout, torch.empty(512, dtype=torch.uint8, device="meta"))
        with pytest.raises(ValueError, match=r"\[1, 2\]"):
            reader.read_rows(recipe, [0], torch.empty(2, 2))
        with pytest.raises(ValueError, match="float32"):
            reader.read_rows(recipe, [0], torch.empty(1, 2, dtype=torch.float16))


def test_an_empty_layer_is_done_at_once(tmp_path: Path) -> None:
    index = index_of(tmp_path, w=torch.zeros(0, 3))
    with WeightReader(index) as reader:
        reader.read(layout_of(index), empty(512)).wait()
        read = reader.read(LayerLayout.of("nothing", []), empty(0))
        assert read.done()
        read.wait()


def test_many_reads_at_once_do_not_mix(large: CheckpointIndex) -> None:
    expected = load_file(next(iter(large.identities)))
    layouts = [LayerLayout.of("", [as_it_is(span)]) for span in large.spans.values()] * 4
    buffers = [empty(layout.size_bytes) for layout in layouts]
    with WeightReader(large, threads=4) as reader:
        reads = [reader.read(*pair) for pair in zip(layouts, buffers, strict=True)]
        for read in reversed(reads):
            read.wait()
    for layout, buffer in zip(layouts, buffers, strict=True):
        ((name, view),) = layout.views(buffer).items()
        assert torch.equal(view, expected[name])


def test_reads_are_done_in_the_order_of_asking(large: CheckpointIndex) -> None:
    layout = LayerLayout.of("", [as_it_is(large.spans["big"])])
    buffers = [empty(layout.size_bytes) for _ in range(6)]
    with WeightReader(large, threads=1) as reader:
        reads = [reader.read(layout, buffer) for buffer in buffers]
        for number, read in enumerate(reads):
            read.wait()
            assert all(earlier.done() for earlier in reads[:number])


def copy_of(large: CheckpointIndex, folder: Path) -> tuple[CheckpointIndex, Path]:
    path = folder / "model.safetensors"
    shutil.copy(next(iter(large.identities)), path)
    return CheckpointIndex.of(folder), path


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    other = path.with_name("other")
    save_file({"big": torch.zeros(8)}, other)
    other.replace(path)


def remove(path: Path) -> None:
    path.rename(path.with_name("moved"))


@MODES
@pytest.mark.parametrize("opened", [False, True], ids=["unopened", "in-use"])
@pytest.mark.parametrize("change", [truncate, replace, remove], ids=lambda c: c.__name__)
def test_a_file_that_changes_is_noticed_and_never_read(
    large: CheckpointIndex, tmp_path: Path, change: object, opened: bool, direct: bool
) -> None:
    index, path = copy_of(large, tmp_path)
    layout = layout_of(index)
    buffer = empty(layout.size_bytes)
    with WeightReader(index, direct=direct) as reader:
        if opened:
            reader.read(layout, buffer).wait()
            buffer.fill_(0xAA)
        change(path)  # type: ignore[operator]
        for _ in range(2):
            with pytest.raises(CheckpointChangedError, match=r"model\.safetensors"):
                reader.read(layout, buffer).wait()
        assert torch.all(buffer == 0xAA)


@MODES
def test_a_file_that_comes_back_is_read_again(
    large: CheckpointIndex, tmp_path: Path, direct: bool
) -> None:
    index, path = copy_of(large, tmp_path)
    layout = layout_of(index)
    buffer = empty(layout.size_bytes)
    with WeightReader(index, direct=direct) as reader:
        path.rename(tmp_path / "away")
        with pytest.raises(CheckpointChangedError):
            reader.read(layout, buffer).wait()
        (tmp_path / "away").rename(path)
        reader.read(layout, buffer).wait()
    assert torch.equal(layout.views(buffer)["big"], load_file(path)["big"])


@MODES
def test_a_file_cut_while_it_is_read_never_gives_a_layer(
    large: CheckpointIndex, tmp_path: Path, direct: bool
) -> None:
    index, path = copy_of(large, tmp_path)
    layout = layout_of(index)
    chance = random.Random(0)
    original = path.read_bytes()
    # Copies, for what is loaded may be mapped to the file that is about to be cut.
    expected = {name: tensor.clone() for name, tensor in load_file(path).items()}
    status = path.stat()
    outcomes = set()
    with WeightReader(index, threads=2, direct=direct) as reader:
        for _ in range(20):
            buffer = empty(layout.size_bytes)
            read = reader.read(layout, buffer)
            for _ in range(chance.randrange(3000)):
                pass
            os.truncate(path, chance.randrange(len(original)))
            try:
                read.wait()
            except CheckpointChangedError:
                outcomes.add("noticed")
            else:
                outcomes.add("read before")
                views = layout.views(buffer)
                assert all(torch.equal(views[name], t) for name, t in expected.items())
            path.write_bytes(original)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        buffer = empty(layout.size_bytes)
        reader.read(layout, buffer).wait()
        assert torch.equal(layout.views(buffer)["big"], expected["big"])
    assert "noticed" in outcomes


@contextlib.contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@MODES
def test_an_error_names_file_and_tensor_and_passes(large: CheckpointIndex, direct: bool) -> None:
    path = next(iter(large.identities))
    span = large.spans["big"]
    layout = LayerLayout.of("", [as_it_is(span)])
    buffer = empty(layout.size_bytes)
    with WeightReader(large, direct=direct) as reader:
        for _ in range(5):
            with no_file_can_be_opened(), pytest.raises(WeightReadError) as raised:
                reader.read(layout, buffer).wait()
            error = raised.value
            assert error.path == path
            assert error.tensor == "big"
            begin, end = span.offset_bytes, span.offset_bytes + span.size_bytes
            assert begin <= error.offset_bytes < end
            assert error.missing_bytes == end - error.offset_bytes
            assert str(path) in error.message
            assert "'big'" in error.message
            assert f"{error.missing_bytes:,}" in error.message
            assert "Too many open files" in error.message
            assert error.hint
        reader.read(layout, buffer).wait()
    assert torch.equal(layout.views(buffer)["big"], load_file(path)["big"])


def test_an_error_of_one_read_does_not_touch_the_others(
    large: CheckpointIndex, tmp_path: Path
) -> None:
    good = index_of(tmp_path / "good", a=torch.arange(9))
    bad = index_of(tmp_path / "bad", b=torch.arange(9))
    both = CheckpointIndex({**good.spans, **bad.spans}, {**good.identities, **bad.identities})
    layouts = [LayerLayout.of("", [as_it_is(both.spans[name])]) for name in ("a", "b", "a")]
    buffers = [empty(layout.size_bytes) for layout in layouts]
    truncate(both.spans["b"].path)
    with WeightReader(both, threads=2) as reader:
        reads = [reader.read(*pair) for pair in zip(layouts, buffers, strict=True)]
        with pytest.raises(CheckpointChangedError):
            reads[1].wait()
        reads[0].wait()
        reads[2].wait()
    for number in (0, 2):
        assert layouts[number].views(buffers[number])["a"].tolist() == list(range(9))


@MODES
def test_after_a_cancel_no_byte_is_written(large: CheckpointIndex, direct: bool) -> None:
    layout = layout_of(large)
    expected = load_file(next(iter(large.identities)))
    chance = random.Random(1)
    ended_early = 0
    with WeightReader(large, threads=3, direct=direct) as reader:
        for _ in range(40):
            buffer = empty(layout.size_bytes)
            read = reader.read(layout, buffer)
            for _ in range(chance.randrange(20_000)):
                pass
            read.cancel()
            assert read.done()
            # What nobody writes to any more, a copy can be compared with later.
            now = buffer.clone()
            other = empty(layout.size_bytes)
            reader.read(layout, other).wait()
            assert torch.equal(buffer, now)
            views = layout.views(other)
            assert torch.equal(views["big"], expected["big"])
            try:
                read.wait()
            except Cancelled:
                ended_early += 1
            else:
                assert torch.equal(layout.views(buffer)["big"], expected["big"])
    assert ended_early


def test_one_who_waits_can_be_told_to_stop(large: CheckpointIndex) -> None:
    layout = layout_of(large)
    buffer = empty(layout.size_bytes)
    cancel = threading.Event()
    cancel.set()
    with WeightReader(large, threads=1) as reader:
        ahead = [reader.read(layout, buffer) for _ in range(20)]
        with pytest.raises(Cancelled):
            ahead[-1].wait(cancel)
        ahead[0].wait(threading.Event())


def test_cancels_from_several_threads_all_return(large: CheckpointIndex) -> None:
    layout = layout_of(large)
    with WeightReader(large, threads=2) as reader:
        for _ in range(20):
            read = reader.read(layout, empty(layout.size_bytes))
            others = [threading.Thread(target=read.cancel) for _ in range(4)]
            for thread in others:
                thread.start()
            for thread in others:
                thread.join()
            assert read.done()


@MODES
def test_close_leaves_no_thread_and_no_file(
    large: CheckpointIndex, tmp_path: Path, direct: bool
) -> None:
    index, _ = copy_of(large, tmp_path)
    layout = layout_of(index)
    before = set(threading.enumerate())
    reader = WeightReader(index, threads=4, direct=direct)
    first = empty(layout.size_bytes)
    reader.read(layout, first).wait()
    assert open_files(tmp_path) == 1
    reads = [reader.read(layout, empty(layout.size_bytes)) for _ in range(10)]
    reader.close()
    assert set(threading.enumerate()) <= before
    assert open_files(tmp_path) == 0
    for read in reads:
        assert read.done()
        with contextlib.suppress(Cancelled):
            read.wait()
    with pytest.raises(RuntimeClosedError):
        reader.read(layout, first)
    reader.close()


def test_each_file_is_opened_once(tmp_path: Path) -> None:
    architecture = next(each for each in ARCHITECTURES if each.model_type == "llama")
    folder = save_tiny(architecture, tmp_path, max_shard_size="20kB")
    index = CheckpointIndex.of(folder)
    layout = layout_of(index)
    buffer = empty(layout.size_bytes)
    with WeightReader(index, threads=8) as reader:
        for _ in range(5):
            reader.read(layout, buffer).wait()
        assert open_files(tmp_path) == len(index.identities) > 1


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory")
def test_a_file_system_in_memory_is_read_too(large: CheckpointIndex) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        index, path = copy_of(large, Path(folder))
        layout = layout_of(index)
        buffer = empty(layout.size_bytes)
        with WeightReader(index, direct=True) as reader:
            reader.read(layout, buffer).wait()
        assert torch.equal(layout.views(buffer)["big"], load_file(path)["big"])


def test_many_tiny_tensors_are_read_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"t{n:04}": torch.randn(random.Random(n).randrange(1, 9)) for n in range(1500)}
    index = index_of(tmp_path, **tensors)
    layout = layout_of(index)
    buffer = empty(layout.size_bytes)
    with WeightReader(index, threads=2) as reader:
        reader.read(layout, buffer).wait()
    views = layout.views(buffer)
    assert all(torch.equal(views[name], tensor) for name, tensor in tensors.items())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_a_short_read_goes_on_where_it_stopped(sizes: list[int], data: st.DataObject) -> None:
    from ollm_widgets.weights.reading.files import _after

    count = data.draw(st.integers(0, sum(sizes)))
    whole = bytearray(sum(sizes))
    ends = list(itertools.accumulate(sizes))
    parts = [memoryview(whole)[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    for part in _after(parts, count):
        part[:] = b"x" * len(part)
    assert whole == bytes(count) + b"x" * (sum(sizes) - count)
