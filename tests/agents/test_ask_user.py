"""The tool with which a model asks a person."""

from __future__ import annotations

import json
from typing import Any

import pytest
from polos import AskUserInput, create_ask_user_tool
from polos.llm import Reply
from polos.testing.simulation import Simulation

from tests.agents.stage import answer, call, make_agent, open_questions

ask_user = create_ask_user_tool()
SIZES = [{"label": "Large", "value": "l"}, {"label": "Small", "value": "s"}]
SEATS = {"key": "seats", "type": "number", "label": "Seats", "required": True}


def test_a_question_is_a_form_and_its_answer_the_result():
    """The form is as the model asked for it, and the model is told the data of the answer, whatever that is."""
    fields = [SEATS, {"key": "size", "type": "select", "label": "Size", "options": SIZES, "description": "of the cup"}]
    calls = [
        ("ask_user", {"question": "How many?", "title": "Seats", "fields": fields}), ("ask_user", {"question": "Why?"}),
    ]  # fmt: skip
    asked = make_agent("ask_form", [Reply(tool_calls=calls), "Thanks."], tools=[ask_user])
    with Simulation([asked, ask_user]) as sim:
        root = sim.create(asked, {"input": "Book."}).run
        sim.settle()
        (one, key, form), (other, other_key, plain) = open_questions(sim)
        answer(sim, one, key, {"seats": 3, "size": "l"})
        answer(sim, root, other_key, "because")
        found = sim.result(root)

    assert (key.startswith("ask_user_"), other_key.startswith("ask_user_"), one != other) == (True, True, True)
    assert key != other_key, "an answer that names the tree's root is for one of them"
    assert {
        "_form": {"title": "Seats", "description": "How many?", "fields": fields},
        "_source": "ask_user",
        "_tool": "ask_user",
    } == {name: form[name] for name in ("_form", "_source", "_tool")}
    assert ("Agent Question", "Why?") == (plain["_form"]["title"], plain["_form"]["description"])
    assert [("response", "textarea")] == [(field["key"], field["type"]) for field in plain["_form"]["fields"]]
    assert [{"seats": 3, "size": "l"}, "because"] == [one["result"] for one in found["tool_results"]]


def test_a_crash_at_any_moment_asks_once():
    """Wherever the program is killed there is one question, and its answer reaches the model."""
    asked = make_agent("ask_crash", [call("ask_user", question="Why?"), "Thanks."], tools=[ask_user])
    for turns in range(1, 40, 3):
        with Simulation([asked, ask_user]) as sim:
            wanted = sim.create(asked, {"input": "Book."})
            sim.run_turns(turns)
            sim.recover()
            if not wanted.answered:
                sim.send_again(wanted)
            sim.settle()
            ((run, key, _),) = open_questions(sim)
            sim.recover()
            answer(sim, run, key, {"response": "so"})

            assert [{"response": "so"}] == [one["result"] for one in sim.result(wanted.run)["tool_results"]]


@pytest.mark.parametrize("field", [{"type": "date"}, {"key": None}, {"options": ["a"]}])
def test_a_form_that_nobody_can_show_is_refused(field: dict[str, Any]):
    """A model that asks for another kind of field is told so, and nobody is asked."""
    asked = make_agent(
        "ask_odd", [call("ask_user", question="?", fields=[{**SEATS, **field}]), "Sorry."], tools=[ask_user]
    )
    with Simulation([asked, ask_user]) as sim:
        root = sim.create(asked, {"input": "Book."}).run
        sim.settle()
        (result,) = sim.result(root)["tool_results"]

    assert "failed" == result["status"]
    assert result["error"].startswith("invalid arguments: fields.0.")


def test_the_model_is_told_what_it_may_ask_for():
    """The tool's schema names every field and kind."""
    schema = ask_user.to_llm_tool_definition()["function"]["parameters"]

    assert ["question", "title", "fields"] == list(schema["properties"])
    assert ["text", "textarea", "number", "boolean", "select"] == (
        schema["$defs"]["AskUserField"]["properties"]["type"]["enum"]
    )
    assert [] == AskUserInput(question="?", fields=[]).fields


def test_the_model_is_not_told_what_programmers_are():
    """What models pay for is what they need: no class tells them how programs use it."""
    told = json.dumps(ask_user.parameters)

    assert [] == [word for word in ("```", "Attributes:", "import") if word in told]
    assert ["The question.", "Name of the field in the answer."] == [
        words for words in ("The question.", "Name of the field in the answer.") if words in told
    ]
