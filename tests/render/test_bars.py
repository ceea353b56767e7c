from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.render.bars import Bar, Stretch, bars_to_html

MIB = 1 << 20
STRETCHES = st.lists(
    st.builds(Stretch, st.text(max_size=12), st.integers(1, 1 << 45), st.just("ram")), max_size=6
).map(tuple)


def widths(html: str) -> list[float]:
    return [float(width) for width in re.findall(r"width:([\d.]+)%", html)]


def test_a_bar_is_drawn_to_scale_and_told_in_words() -> None:
    stretches = (Stretch("30 layers", 256 * MIB, "ram"), Stretch("KV", 128 * MIB, "kv"))
    html = bars_to_html((Bar("RAM", "384 MiB of 1.0 GiB", 1024 * MIB, stretches, 512 * MIB),))
    assert widths(html) == [25.0, 12.5]
    assert 'left:50.000%"' in html
    assert 'aria-label="RAM: 384 MiB of 1.0 GiB. 30 layers 256 MiB, KV 128 MiB"' in html
    without_styles = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html).split()
    assert " ".join(without_styles) == "RAM 384 MiB of 1.0 GiB 30 layers 256 MiB KV 128 MiB"


def test_without_a_bar_there_is_nothing() -> None:
    assert bars_to_html(()) == ""


@given(STRETCHES, st.integers(0, 1 << 45), st.text(max_size=12))
def test_no_bar_goes_over_its_end_and_no_name_becomes_a_tag(
    stretches: tuple[Stretch, ...], capacity_bytes: int, title: str
) -> None:
    html = bars_to_html((Bar(title, "", capacity_bytes, stretches),))
    assert sum(widths(html)) <= 100.01
    assert len(re.findall(r"<(?!/)", html)) == 8 + 3 * len(stretches)
