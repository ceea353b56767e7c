"""Options of a cluster are checked before anything is started."""

from __future__ import annotations

from typing import Any

import pytest

from ollm_widgets.cluster.options import ClusterOptions
from ollm_widgets.errors import ConfigError


def test_without_options_it_is_a_ray_of_this_machine_with_one_host_a_node() -> None:
    options = ClusterOptions()
    assert options.is_local
    assert options.bounds is None
    assert options.copies == {}


def test_hosts_are_a_number_or_the_fewest_and_the_most() -> None:
    assert ClusterOptions(hosts=3).bounds == (3, 3)
    assert ClusterOptions(hosts=(0, 4)).bounds == (0, 4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", ""),
        ("address", 6379),
        ("address", "ray://head:10001"),
        ("name", "two words"),
        ("name", ""),
        ("hosts", 0),
        ("hosts", (3, 2)),
        ("hosts", (0, 0)),
        ("hosts", (1, 2, 3)),
        ("hosts", True),
        ("hosts_per_node", 0),
        ("gpus_per_host", -1),
        ("gpus_per_host", float("inf")),
        ("residency", {"max_runtimes": 2}),
        ("copies", {"smollm2-135m": 0}),
        ("busy_wait_s", -1.0),
        ("busy_wait_s", float("nan")),
    ],
)
def test_what_cannot_work_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        ClusterOptions(**{field: value})
    assert refused.value.field == field


def test_limits_of_hosts_are_checked_as_those_of_a_manager() -> None:
    with pytest.raises(ConfigError, match="max_loaded: must be at least 1"):
        ClusterOptions(residency={"max_loaded": 0})
