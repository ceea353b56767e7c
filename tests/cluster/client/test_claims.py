"""What this process uses of a cluster is counted, and told again in full."""

from __future__ import annotations

from ollm_widgets.cluster.client.claims import Claims
from ollm_widgets.cluster.messages import Wanted

ALPHA, BETA = (Wanted(name, name, {}) for name in ("alpha", "beta"))


def test_a_model_is_used_until_the_last_runtime_gives_it_up() -> None:
    claims = Claims()
    for wanted in (ALPHA, BETA, ALPHA):
        claims.add(wanted)
    assert not claims.drop("alpha")
    assert claims.drop("alpha")
    assert claims.all() == ((BETA, False),)


def test_to_give_up_what_is_not_used_is_nothing() -> None:
    claims = Claims()
    assert not claims.drop("alpha")
    claims.pin("alpha", True)
    assert claims.all() == ()


def test_a_pin_is_told_with_its_model() -> None:
    claims = Claims()
    claims.add(ALPHA)
    claims.pin("alpha", True)
    assert claims.all() == ((ALPHA, True),)
    claims.pin("alpha", False)
    assert claims.all() == ((ALPHA, False),)
    claims.clear()
    assert claims.all() == ()
