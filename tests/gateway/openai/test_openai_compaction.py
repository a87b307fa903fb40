"""Conversations that are compacted, and items that are named instead of sent again."""

from collections.abc import AsyncGenerator
from typing import Any, Final

import openai
import pytest
from gateways import served
from open_responses import CHAT, NATIVE, CompactionItem, Dressed, FunctionCall, Message, dressed
from redis.asyncio import Redis
from test_openai_compliance import BOTH, TIDES, message
from test_openai_responses import told

from tailrace.gateway import Access, Principal

SUMMARY: Final = "Summary of the conversation so far:\n\n"
PLAN: Final = [message("system", "Be brief."), message("user", "We meet on Tuesday."), message("assistant", "Noted.")]


@pytest.fixture
async def here(real_redis: Redis, namespace: str) -> AsyncGenerator[Dressed]:
    async with dressed(real_redis, namespace) as started:
        yield started


async def refusal(here: Dressed, path: str, **body: Any) -> tuple[int, str, str]:
    """Status, code and param."""
    answer = await here.gateway.http.post(f"/v1/responses{path}", json=body)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@BOTH
async def test_a_compaction_keeps_what_the_user_said_and_has_the_model_sum_up_the_rest(
    here: Dressed, model: str
) -> None:
    compacted = await here.compact(model=model, input=PLAN, prompt_cache_key="plans", **told(text="Tuesday it is."))
    *kept, last = compacted.output
    assert [item.role for item in kept if isinstance(item, Message)] == ["system", "user"]
    assert isinstance(last, CompactionItem)
    assert "Tuesday" not in last.encrypted_content
    assert compacted.usage.output_tokens > 0
    *conversation, (role, asked) = here.asked(model)
    assert conversation == [("system", "Be brief."), ("user", "We meet on Tuesday."), ("assistant", "Noted.")]
    assert role == "user"
    assert asked.startswith("Sum up")
    calls = here.native.calls if model == NATIVE else here.gateway.engine.rehearsal.calls
    assert calls[-1].body["prompt_cache_key"] == "plans"


@BOTH
async def test_a_conversation_that_is_stored_is_compacted_with_its_tools(here: Dressed, model: str) -> None:
    first = await here.respond(model=model, input="High water in Emden?", tools=[TIDES])
    (call,) = [item for item in first.output if isinstance(item, FunctionCall)]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "At nine."}
    compacted = await here.compact(
        model=model, previous_response_id=first.id, input=[output], tools=[TIDES], **told(text="Emden: at nine.")
    )
    kept, summary = compacted.output
    assert isinstance(kept, Message)
    assert kept.content[0].model_dump()["text"] == "High water in Emden?"
    await here.respond(model=model, input=[kept.as_sent(), summary.as_sent(), message("user", "When?")])
    assert here.asked(model) == [
        ("user", "High water in Emden?"), ("assistant", f"{SUMMARY}Emden: at nine."), ("user", "When?")
    ]  # fmt: skip


async def test_a_summary_is_summed_up_again(here: Dressed) -> None:
    once = await here.compact(model=CHAT, input=PLAN, **told(text="It is Tuesday."))
    items = [item.as_sent() for item in once.output]
    twice = await here.compact(model=CHAT, input=[*items, message("assistant", "At noon.")], **told(text="Noon."))
    assert ("assistant", f"{SUMMARY}It is Tuesday.") in here.asked(CHAT)
    assert [item.type for item in twice.output] == ["message", "message", "compaction"]


async def test_a_chain_goes_on_from_a_response_that_went_on_from_a_compaction(here: Dressed) -> None:
    compacted = await here.compact(model=CHAT, input=PLAN[1:], **told(text="It is Tuesday."))
    items = [item.as_sent() for item in compacted.output]
    first = await here.respond(model=CHAT, input=[*items, message("user", "Which day?")], **told(text="Tuesday."))
    await here.respond(model=NATIVE, input="Sure?", previous_response_id=first.id)
    assert [text for _, text in here.asked(NATIVE)] == [
        "We meet on Tuesday.", f"{SUMMARY}It is Tuesday.", "Which day?", "Tuesday.", "Sure?"
    ]  # fmt: skip
    listed = (await here.gateway.http.get(f"/v1/responses/{first.id}/input_items?order=asc")).json()["data"]
    assert listed[1] == items[1]


async def test_the_same_compaction_asked_for_again_is_no_second_job(here: Dressed) -> None:
    body = {"model": CHAT, "input": PLAN, **told(text="It is Tuesday.")}
    answers = [
        (await here.gateway.http.post("/v1/responses/compact", json=body, headers={"Idempotency-Key": "one"})).json()
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert len(here.gateway.engine.rehearsal.calls) == 1


async def test_the_package_of_openai_compacts_and_goes_on(here: Dressed) -> None:
    given: Any = PLAN[1:]
    async with openai.AsyncOpenAI(base_url=f"{here.gateway.url}/v1", api_key="none", max_retries=0) as client:
        compacted = await client.responses.compact(model=CHAT, input=given, extra_body=told(text="It is Tuesday."))
        # The package takes every message for the assistant's own, and would warn of the user's.
        begins: Any = [item.to_dict(warnings=False) for item in compacted.output]
        response = await client.responses.create(model=CHAT, input=begins, extra_body=told(text="Yes."))
        assert response.output_text == "Yes."
        assert (await client.responses.retrieve(compacted.id)).output_text == "It is Tuesday."


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": PLAN}, "model"),
        ({"model": None, "input": PLAN}, "model"),
        ({"model": CHAT}, "input"),
        ({"model": CHAT, "input": []}, "input"),
        ({"model": CHAT, "input": "x", "stream": True}, "stream"),
        ({"model": CHAT, "input": "x", "previous_response_id": "resp_none"}, "previous_response_id"),
    ],
)
async def test_a_wrong_compaction_is_400(here: Dressed, wrong: dict[str, Any], param: str) -> None:
    status, _, said = await refusal(here, "/compact", **wrong)
    assert (status, said) == (400, param)


@BOTH
async def test_a_summary_that_is_not_whole_is_none(here: Dressed, model: str) -> None:
    cut = await refusal(here, "/compact", model=model, input=PLAN, **told(tokens=9, finish="length"))
    assert cut[:2] == (502, "compaction_failed")
    status, *_ = await refusal(here, "/compact", model=model, input=PLAN, **told(fault="status", code=400))
    assert status == 400


async def test_a_damaged_compaction_is_400_and_that_of_somebody_else_is_for_them(here: Dressed) -> None:
    compacted = await here.compact(model=CHAT, input=PLAN)
    damaged = compacted.output[-1].as_sent() | {"encrypted_content": "tailrace1.e30="}
    assert await refusal(here, "", model=CHAT, input=[damaged]) == (
        400, "invalid_request", "input[0].encrypted_content"
    )  # fmt: skip
    foreign = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"}
    assert await refusal(here, "", model=CHAT, input=[foreign]) == (400, "invalid_request", "input[0]")
    await here.respond(model=NATIVE, input=[foreign, message("user", "Go on.")])
    assert here.native.calls[-1].body["input"][0] == foreign


async def test_items_of_any_stored_response_can_be_named(here: Dressed) -> None:
    first = await here.respond(model=CHAT, input="High water in Emden?", tools=[TIDES])
    listed = (await here.gateway.http.get(f"/v1/responses/{first.id}/input_items")).json()["data"]
    (call,) = [item for item in first.output if isinstance(item, FunctionCall)]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "At nine."}
    for named in ({"type": "item_reference", "id": call.id}, {"id": call.id}):
        question = {"type": "item_reference", "id": listed[0]["id"]}
        second = await here.respond(model=CHAT, input=[question, named, output], **told(text="At nine."))
        asked = here.gateway.engine.rehearsal.calls[-1].body["messages"]
        assert [each["role"] for each in asked] == ["user", "assistant", "tool"]
        assert asked[0]["content"] == "High water in Emden?"
        assert asked[1]["tool_calls"][0]["id"] == call.call_id
    # What was named is there when the one that it was named in is gone on from.
    await here.respond(model=NATIVE, input="Thanks.", previous_response_id=second.id)
    kinds = [item["type"] for item in here.native.calls[-1].body["input"]]
    assert kinds == ["message", "function_call", "function_call_output", "message", "message"]


async def test_an_item_that_is_not_stored_here_is_not_found_unless_the_upstream_may_know_it(here: Dressed) -> None:
    unstored = await here.respond(model=CHAT, input="x", store=False)
    for item_id in ("msg_none", "msg", "", "msg_resp_none_0", unstored.output[0].id, f"msg_{unstored.id}_in0"):
        named = {"type": "item_reference", "id": item_id}
        assert await refusal(here, "", model=CHAT, input=[named]) == (400, "item_not_found", "input[0]")
    native = await here.respond(model=NATIVE, input="x")
    named = {"type": "item_reference", "id": f"{native.output[0].id}x"}
    await here.respond(model=NATIVE, input=[named, message("user", "More.")])
    assert here.native.calls[-1].body["input"][0] == named


async def test_an_item_of_another_tenant_is_not_found(here: Dressed) -> None:
    class Tenants(Access):
        async def principal(self, connection: Any) -> Principal:
            return Principal(tenant=connection.headers["x-tenant"])

    async with served(here.gateway.engine, access=Tenants()) as gateway:
        asked: dict[str, Any] = {"json": {"model": CHAT, "input": "x"}}
        made = (await gateway.http.post("/v1/responses", **asked, headers={"X-Tenant": "a"})).json()
        asked = {"json": {"model": CHAT, "input": [{"type": "item_reference", "id": made["output"][0]["id"]}]}}
        for tenant, status in (("a", 200), ("b", 400)):
            answer = await gateway.http.post("/v1/responses", **asked, headers={"X-Tenant": tenant})
            assert answer.status_code == status, answer.text


async def test_the_output_of_a_tool_that_nobody_called_is_refused(here: Dressed) -> None:
    output = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
    call = {"type": "function_call", "call_id": "call_1", "name": "tides", "arguments": "{}"}
    for given in ([output], [output, call], [call | {"call_id": "call_2"}, output]):
        assert (await refusal(here, "", model=CHAT, input=given))[0] == 400
    await here.respond(model=CHAT, input=[call, output])
