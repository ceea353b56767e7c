"""What a trace says to a person."""

from __future__ import annotations

from ollm_widgets.runtime.trace import Trace
from ollm_widgets.weights.trace import LayerTrace, PassTrace

LAYERS = (
    LayerTrace(0, "host", 0.0, 0.5, 0.25, 1.0),
    LayerTrace(1, "accelerator", 0.0, 0.0, 0.0, 1.25),
)


def rows_of(trace: Trace) -> dict[str, str]:
    return {row.term: row.text for row in trace.card().rows}


def test_the_parts_of_a_captured_step_are_its_whole() -> None:
    step = PassTrace(1, LAYERS, 4.0, head_s=0.5, ahead_wait_s=0.5, position=7)
    trace = Trace([step])
    assert trace.card().subtitle == "1 pass in 4.0 s"
    assert rows_of(trace) == {
        "Waiting for disk": "0 ms, 0%",
        "Waiting for copies": "1.0 s, 25%",
        "Unpacking": "0.2 s, 6%",
        "Computing": "2.2 s, 56%",
        "Choosing the token": "0.5 s, 12%",
    }


def test_what_lies_between_layers_is_a_part_too() -> None:
    trace = Trace([PassTrace(1, LAYERS, 4.0)])
    assert rows_of(trace)["Between layers"] == "1.0 s, 25%"


def test_each_token_is_drawn_and_the_prompt_is_not() -> None:
    prompt, step = PassTrace(9, LAYERS, 90.0), PassTrace(1, LAYERS, 3.0)
    html = Trace([prompt, step, step]).to_html()
    assert "2 passes of one token took 3.0 s each: 75% computing, 17% waiting for copies" in html
    assert html.count("<svg") == 1
    assert "<svg" not in Trace([prompt]).to_html()
    assert "<svg" not in Trace().to_html()


def test_it_says_how_many_captured_steps_were_not_recorded() -> None:
    prompt = PassTrace(9, LAYERS, 3.0)
    steps = [
        PassTrace(1, LAYERS, 3.0, position=place, unrecorded=unrecorded)
        for place, unrecorded in ((9, 2), (12, 1))
    ]
    trace = Trace([prompt, *steps])
    assert (trace.captured_steps, trace.unrecorded_steps) == (2, 3)
    assert rows_of(trace)["Recorded"] == "2 of 5 captured steps"
    assert "Recorded" not in rows_of(Trace([prompt]))


def test_it_says_once_why_steps_were_not_captured_while_they_were_traced() -> None:
    slow = PassTrace(1, LAYERS, 3.0, note="torch 2.7.1 has no events inside graphs")
    trace = Trace([PassTrace(9, LAYERS, 3.0), slow, slow])
    notes = [row for row in trace.card().rows if row.tone == "warn"]
    assert [row.text for row in notes] == [
        "Traced steps run one operation at a time: torch 2.7.1 has no events inside graphs."
    ]
    assert notes[0].text in trace.to_text().replace("\n", " ")
