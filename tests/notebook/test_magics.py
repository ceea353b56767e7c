from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.notebook.conftest import Kernel

QUESTION = "What is the capital of France?"


def value(kernel: Kernel, expression: str) -> object:
    """Evaluate in the kernel; the value must be JSON."""
    outcome = kernel.run(f"import json as _json; print(_json.dumps({expression}))")
    assert outcome.status == "ok", outcome.error
    return json.loads(outcome.printed.splitlines()[-1])


REFERENCE = f"""
from ollm_widgets import GenerationConfig, default_session
_runtime = default_session().runtime
_encoded = _runtime.tokenizer.apply_chat_template(
    [{{"role": "user", "content": {QUESTION!r}}}], add_generation_prompt=True,
    return_tensors="pt", return_dict=True)
_output = _runtime.model.generate(**_encoded, do_sample=False, max_new_tokens=40)
reference = _runtime.tokenizer.decode(
    _output[0, _encoded["input_ids"].shape[1]:], skip_special_tokens=True)
_short = GenerationConfig(max_new_tokens=40)
streamed = "".join(delta.text for delta in _runtime.stream({QUESTION!r}, _short))
_session = default_session()
_session.conversation.clear()
_session.send({QUESTION!r})
"""


def test_magic_chat_stream_and_transformers_give_the_same_greedy_text(kernel: Kernel) -> None:
    magic = kernel.run(f"%%ollm --into answer --max-new-tokens 40\n{QUESTION}")
    assert magic.status == "ok", magic.error
    assert kernel.run(REFERENCE).status == "ok"
    waited = kernel.run(
        "import threading\n"
        "_ended = threading.Event()\n"
        "_unwatch = _session.watch(\n"
        "    lambda part, job: _session.conversation.busy or _ended.set())\n"
        "assert not _session.conversation.busy or _ended.wait(60)\n"
        "_unwatch()\n"
        "chat = _session.conversation.transcript.turns[-1].text"
    )
    assert waited.status == "ok", waited.error
    reference = value(kernel, "reference")
    assert "Paris" in str(reference)
    assert magic.printed == f"{reference}\n"
    assert value(kernel, "[answer.text, streamed, chat]") == [reference] * 3


def test_an_answer_arrives_in_more_than_one_piece(kernel: Kernel) -> None:
    request = kernel.start("%%ollm --max-new-tokens 40\nCount from one to ten.")
    texts = [
        message["content"]["text"]
        for message in kernel.messages(request)
        if message["msg_type"] == "stream"
    ]
    assert len(texts) > 1


def test_an_interrupt_stops_the_answer_keeps_its_text_and_leaves_the_model_usable(
    kernel: Kernel,
) -> None:
    request = kernel.start("%%ollm --into stopped --max-new-tokens 400\nTell me a long story.")
    messages = kernel.messages(request)
    for message in messages:
        if message["msg_type"] == "stream":
            kernel.manager.interrupt_kernel()
            break
    printed = "".join(
        message["content"]["text"] for message in messages if message["msg_type"] == "stream"
    )
    assert "[stopped]" in printed
    assert value(kernel, "stopped.finish_reason") == "cancelled"
    assert value(kernel, "stopped.text")
    assert "Paris" in kernel.run(f"%%ollm --max-new-tokens 20\n{QUESTION}").printed


def test_plan_shows_a_card_and_loads_nothing(kernel: Kernel) -> None:
    outcome = kernel.run("%ollm plan llama3-8B-chat")
    assert outcome.status == "ok", outcome.error
    (data,) = outcome.results
    assert "llama3-8B-chat" in data["text/html"]
    assert "not on this machine" in data["text/plain"]


def test_plan_with_why_tells_it_in_sentences(kernel: Kernel) -> None:
    outcome = kernel.run("%ollm plan smollm2-135m --why")
    assert outcome.status == "ok", outcome.error
    assert outcome.results == []
    assert "Where its layers are: 30 layers in RAM." in outcome.printed
    assert max(map(len, outcome.printed.splitlines())) <= 96


def test_load_returns_the_runtime_that_is_in_memory_already(kernel: Kernel) -> None:
    outcome = kernel.run("runtime = %ollm load smollm2-135m --dtype float32")
    assert outcome.status == "ok", outcome.error
    assert value(kernel, "runtime is default_session().runtime") is True


def test_list_names_the_catalog_and_what_is_in_memory(kernel: Kernel) -> None:
    (data,) = kernel.run("%ollm list").results
    assert "in memory: smollm2-135m" in data["text/plain"]
    assert "qwen3-next-80B" in data["text/plain"]


def test_list_begins_with_what_is_in_memory_and_what_it_holds_there(kernel: Kernel) -> None:
    (data,) = kernel.run("%ollm list").results
    # The weights in float32, and keys and values of the questions before.
    assert re.search(r"in memory: 5[1-9]\d MiB RAM, used just now", data["text/plain"])


def test_memory_shows_what_is_in_memory_and_how_full_that_is(kernel: Kernel) -> None:
    (data,) = kernel.run("%ollm memory").results
    assert "MiB" in data["text/plain"]
    assert "smollm2-135m" in data["text/plain"]
    assert re.search(r"^RAM, .* used$", data["text/plain"], re.MULTILINE)


def test_a_pin_is_said_and_shown(kernel: Kernel) -> None:
    assert kernel.run("%ollm pin").printed == "smollm2-135m: pinned, it stays in memory.\n"
    assert "pinned" in kernel.run("%ollm list").results[0]["text/plain"]
    printed = kernel.run("%ollm unpin smollm2-135m").printed
    assert printed == "smollm2-135m: unpinned, it may leave memory again.\n"


def test_options_are_shown_and_changed_live(kernel: Kernel) -> None:
    assert kernel.run("%ollm config idle_timeout 30m").printed == ("idle_timeout is 30 min now.\n")
    assert value(kernel, "default_session().manager.options.idle_timeout_s") == 1800
    (data,) = kernel.run("%ollm config").results
    assert "set here" in data["text/plain"]
    assert kernel.run("%ollm config idle_timeout=20 min").printed == "idle_timeout is 20 min now.\n"
    assert kernel.run("%ollm config idle_timeout 15m").status == "ok"


def test_info_describes_a_model_or_the_one_in_use(kernel: Kernel) -> None:
    (data,) = kernel.run("%ollm info").results
    assert "optimized-native" in data["text/plain"]
    (data,) = kernel.run("%ollm info gpt-oss-20B").results
    assert "openai/gpt-oss-20b" in data["text/plain"]


def test_the_bare_magic_opens_the_workbench(kernel: Kernel) -> None:
    (data,) = kernel.run("%ollm").results
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"].startswith("smollm2-135m\nWorkbench, as it was on ")
    assert "30 layers" in data["text/html"], "what can draw no widget shows the plan"


def test_a_conversation_goes_on_in_the_next_cell_and_computes_only_what_is_new(
    kernel: Kernel,
) -> None:
    first = kernel.run(f"%%ollm --chat talk --max-new-tokens 12\n{QUESTION}")
    assert "Paris" in first.printed
    second = kernel.run("%%ollm --chat talk --max-new-tokens 12\nAnd of Italy?")
    assert second.status == "ok", second.error
    assert "prompt tokens reused]" in second.printed
    roles = value(kernel, "[message['role'] for message in talk]")
    assert roles == ["user", "assistant", "user", "assistant"]
    edited = kernel.run("del talk[-2:]\ntalk[0]['content'] = 'Hello.'")
    assert edited.status == "ok"
    third = kernel.run("%%ollm --chat talk --max-new-tokens 4\nWho are you?")
    assert third.status == "ok", third.error
    assert value(kernel, "len(talk)") == 4
    mistaken = kernel.run("talk = 5\nget_ipython().run_cell_magic('ollm', '--chat talk', 'hi')")
    assert "a conversation is a list of messages" in mistaken.error


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("%ollm lod", "plan, load, list, search, info, download, rm, memory, unload, pin"),
        ("%ollm load no-such-model", "no-such-model"),
        ("%ollm load ./no/such/folder", "no such folder"),
        ("%ollm load smollm2-135m --offload-gpu-layers 31", "the model has 30"),
        ("%ollm load smollm2-135m --kv-cache-strategy paged --kv-cache-window-tokens 9", "paged"),
        ("%ollm plan smollm2-135m --context-tokens many", "--context-tokens"),
        ("%ollm plan smollm2-135m --context-tokens -5", "context_tokens"),
        ("%ollm plan smollm2-135m --nonsense", "--nonsense"),
        ("%ollm info 'unclosed", "Close the quote"),
        ("%ollm unload other-model", "In memory: smollm2-135m"),
        ("%ollm pin other-model", "other-model is not in memory"),
        ("%ollm demote", "smollm2-135m"),
        ("%ollm config patience 5", "is no option"),
        ("%ollm config max_loaded many", "whole number"),
        ("%ollm config max_loaded", "needs a value"),
        ("%ollm config max_loaded=", "needs a value"),
        ("%%ollm smollm2-135m\n\n\n", "the cell is empty"),
        ("%%ollm --into 1x\nhi", "no variable name"),
        ("%%ollm --chat 1x\nhi", "no variable name"),
        ("%%ollm --temperature -1\nhi", "temperature"),
        ("%%ollm no-such-model\nhi", "no-such-model"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do_and_the_next_command_works(
    kernel: Kernel, code: str, says: str
) -> None:
    outcome = kernel.run(code)
    assert outcome.status == "error"
    assert says in outcome.error
    assert outcome.error.startswith("UsageError: ")
    assert len(outcome.error.strip().splitlines()) == 1, outcome.error
    assert kernel.run("%ollm info").status == "ok"


def damaged(folder: Path, kind: str) -> str:
    if kind == "config":
        (folder / "config.json").unlink()
    elif kind == "truncated":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
    else:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("config", "no config.json"), ("truncated", "cut short"), ("pickle", "pickle")],
)
def test_a_damaged_model_is_one_line_that_names_the_damage(
    kernel: Kernel, saved_llama: Path, tmp_path: Path, kind: str, says: str
) -> None:
    import shutil

    folder = Path(shutil.copytree(saved_llama, tmp_path / "damaged"))
    outcome = kernel.run(f"%ollm load {damaged(folder, kind)}")
    assert outcome.error.startswith("UsageError: ")
    assert says in outcome.error
    assert len(outcome.error.strip().splitlines()) == 1


def test_braces_are_text_until_filling_is_asked_for(kernel: Kernel) -> None:
    cell = "--max-new-tokens 2\nSay {word} and {{braces}}."
    assert kernel.run("word, talk, filled = 'tea', [], []").status == "ok"
    assert kernel.run(f"%%ollm --chat talk {cell}").status == "ok"
    assert kernel.run(f"%%ollm --fill --chat filled {cell}").status == "ok"
    assert value(kernel, "[talk[0]['content'], filled[0]['content']]") == [
        "Say {word} and {{braces}}.",
        "Say tea and {braces}.",
    ]
    outcome = kernel.run("%%ollm -f\nSay {wrd}.")
    assert outcome.error.strip() == (
        "UsageError: --fill: {wrd} failed: NameError: name 'wrd' is not defined."
    )


def test_sampling_options_apply(kernel: Kernel) -> None:
    options = "--temperature 1.5 --top-k 40 --top-p 0.95 --repetition-penalty 1.1"
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        asked = f"%%ollm --max-new-tokens 12 {options} --seed {seed} --into {name}"
        assert kernel.run(f"{asked}\nInvent a word.").status == "ok"
    assert value(kernel, "[one.text == same.text, one.text == other.text]") == [True, False]


def test_an_image_is_refused_by_a_model_that_takes_text_only(kernel: Kernel) -> None:
    outcome = kernel.run("%%ollm --image examples/workbench.png\nWhat is this?")
    assert outcome.error.strip() == (
        "UsageError: --image: smollm2-135m takes text only. Name a model that takes images."
    )
    assert "no file here" in kernel.run("%%ollm --image nowhere.png\nWhat is this?").error


@pytest.mark.parametrize(
    "code", ["%ollm --help", "%ollm load --help", "%%ollm --help", "%%ollm --help\n?"]
)
def test_help_is_printed(kernel: Kernel, code: str) -> None:
    outcome = kernel.run(code)
    assert outcome.status == "ok", outcome.error
    assert "usage: " in outcome.printed


def test_a_question_mark_explains_the_magic(kernel: Kernel) -> None:
    reply = kernel.client.execute("%ollm?", reply=True, timeout=60)
    text = reply["content"]["payload"][0]["data"]["text/plain"]
    assert "open the workbench" in text


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("%ollm ", {"plan", "load", "list", "info", "unload", "memory", "pin", "config"}),
        ("%ollm unload ", {"smollm2-135m"}),
        ("%ollm unload --", {"--force", "--all"}),
        ("%ollm pin ", {"smollm2-135m"}),
        ("%ollm config ", {"max_loaded", "idle_timeout", "demotes"}),
        ("%ollm pl", {"plan"}),
        ("%ollm load smol", {"smollm2-135m"}),
        ("%ollm load smollm2-135m --kv-cache-s", {"--kv-cache-strategy"}),
        ("%ollm load smollm2-135m --kv-cache-strategy res", {"resident"}),
        ("%%ollm gem", {"gemma3-12B"}),
        ("%%ollm --in", {"--into"}),
    ],
)
def test_arguments_complete(kernel: Kernel, typed: str, offered: set[str]) -> None:
    assert offered <= set(kernel.complete(typed))


def test_unload_gives_the_memory_back_and_the_next_question_loads_again(kernel: Kernel) -> None:
    outcome = kernel.run("%ollm unload")
    freed = re.fullmatch(r"smollm2-135m: (\d+) MiB of RAM freed\.\n", outcome.printed)
    assert freed is not None
    # The weights in float32, and what the conversations left as keys and values.
    assert 513 <= int(freed[1]) < 575
    assert "No model was loaded" in kernel.run("%ollm unload --all").printed
    assert "Paris" in kernel.run(f"%%ollm smollm2-135m --max-new-tokens 20\n{QUESTION}").printed


def test_a_load_says_who_left_for_it_and_how_many_bytes_that_gave(
    kernel: Kernel, saved_llama: Path
) -> None:
    assert kernel.run("%ollm load smollm2-135m").status == "ok"
    said = kernel.run("%ollm config max_loaded 1").printed
    assert said in (
        "max_loaded is 1 now.\n",
        "max_loaded is 1 now. 2 models are in memory; "
        "the least recently used leave with the next load.\n",
    )
    outcome = kernel.run(f"%ollm load path:{saved_llama} --device cpu")
    assert outcome.status == "ok", outcome.error
    evicted = re.search(
        r"\nEvicted smollm2-135m for tiny-llama: \d+ MiB of RAM freed\.\n", outcome.printed
    )
    assert evicted is not None, outcome.printed
    assert kernel.run("%ollm config max_loaded none").status == "ok"


def test_without_a_model_in_use_it_is_said_what_is_in_memory(kernel: Kernel) -> None:
    loaded = kernel.run("%ollm load smollm2-135m")
    assert loaded.status == "ok", loaded.error
    assert kernel.run("%ollm unload").status == "ok"
    assert "none is in use here. In memory: tiny-llama." in kernel.run("%ollm unload").error


def test_an_answer_that_ran_too_long_says_so(kernel: Kernel) -> None:
    assert kernel.run("%ollm config busy_timeout 0.05s").status == "ok"
    outcome = kernel.run("%%ollm smollm2-135m --max-new-tokens 2000\nCount to ten thousand.")
    assert outcome.printed.endswith("\n[stopped: it ran longer than 50 ms]\n"), outcome.printed
    assert kernel.run("%ollm config busy_timeout 0").status == "ok"


def test_a_question_behind_another_says_how_many_answers_come_first(kernel: Kernel) -> None:
    code = """
import threading, time
from ollm_widgets import GenerationConfig, default_session
runtime = default_session().runtime
def wait_for_company(*_):
    while len(runtime.queue) == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    hook.remove()
deadline = time.monotonic() + 60
hook = runtime.model.register_forward_pre_hook(wait_for_company)
short = GenerationConfig(max_new_tokens=2)
other = runtime.stream("Hello.", short, caller="another cell")
threading.Thread(target=lambda: list(other), daemon=True).start()
while not runtime.queue:
    time.sleep(0.01)
"""
    assert kernel.run(code).status == "ok"
    outcome = kernel.run("%%ollm --max-new-tokens 4\nHello.")
    assert outcome.status == "ok", outcome.error
    assert outcome.printed.startswith("[smollm2-135m: 1 answer comes first]\n")


def test_a_model_that_left_by_itself_is_missed_with_the_reason_and_comes_back(
    kernel: Kernel,
) -> None:
    assert kernel.run("%ollm load smollm2-135m").status == "ok"
    code = """
import time
from ollm_widgets import default_manager, default_session
%ollm config idle_timeout 0.1s
while default_session().runtime_id is not None:
    time.sleep(0.01)
%ollm config idle_timeout 15m
"""
    outcome = kernel.run(code)
    assert outcome.status == "ok", outcome.error
    missed = kernel.run("%ollm pin").error
    assert re.search(
        r"smollm2-135m(-\d)? left memory \(unused for .*s\)\. %ollm load brings it back\.", missed
    )
    outcome = kernel.run("%%ollm --max-new-tokens 4\nHello.")
    assert re.match(r"smollm2-135m(-\d)? left memory \(unused for ", outcome.printed)
    assert default_is_back(kernel)


def default_is_back(kernel: Kernel) -> bool:
    return bool(value(kernel, "'smollm2-135m' in [r.id for r in default_manager().residents()]"))
