"""Who watches hears of each change between busy and idle once, and in order."""

from __future__ import annotations

import threading

from ollm_widgets.runtime.activity import Activity


def noted(activity: Activity, lock: threading.RLock, *changes: bool) -> None:
    with lock:
        for busy in changes:
            activity.note(busy)


def test_only_changes_are_told_and_each_once() -> None:
    lock = threading.RLock()
    activity = Activity(lock)
    heard: list[bool] = []
    unwatch = activity.watch(heard.append)
    noted(activity, lock, False, True, True, False)
    assert heard == []
    activity.tell()
    activity.tell()
    assert heard == [True, False]
    unwatch()
    unwatch()
    noted(activity, lock, True)
    activity.tell()
    assert heard == [True, False]


def test_a_change_that_comes_while_another_is_told_is_told_after_it() -> None:
    lock = threading.RLock()
    activity = Activity(lock)
    heard: list[bool] = []

    def watcher(busy: bool) -> None:
        if busy:
            noted(activity, lock, False)
            activity.tell()  # somebody tells already, and sees to this one, too
            assert activity.is_told
        heard.append(busy)

    activity.watch(watcher)
    noted(activity, lock, True)
    activity.tell()
    assert heard == [True, False]


def test_a_watcher_that_fails_keeps_nothing_from_the_others() -> None:
    lock = threading.RLock()
    activity = Activity(lock)
    heard: list[bool] = []

    def fail(_busy: bool) -> None:
        raise ValueError("of the watcher's own")

    activity.watch(fail)
    activity.watch(heard.append)
    noted(activity, lock, True)
    activity.tell()
    noted(activity, lock, False)
    activity.tell()
    assert heard == [True, False]
