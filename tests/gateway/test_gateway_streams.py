"""Streams over a real server: text, events and records, from any position, to their end, and what happens without one."""

import asyncio
import json
import socket
from collections.abc import Sequence
from functools import partial

from gateways import Served, raw, served
from redis.asyncio import Redis
from sse import Message, read_sse

from engine import engine, wait_until
from job_logs import Pen, archived, attached, sealed, submitted
from scraped import Scraped
from tailrace.client import AsyncJob
from tailrace.joblog import Broker
from tailrace.schemas import END, Keys, Position, Status
from tailrace.telemetry.metrics_catalogue import STREAMS_ENDED

ENDLESS = "rehearsal:fault=endless,pace=0.005"
NASTY = ["\r", "\n", "\r\n", "\n\n", "data: x", "\0", "\u2028", "é😀", "id: 7\n\ndata: y", ": comment"]
KINDS = ("stream", "events", "records")


async def messages(gateway: Served, path: str, **headers: str) -> list[Message]:
    answer = await gateway.http.get(path, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    return read_sse(answer.content)


async def test_text_events_and_records_are_what_python_readers_get(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        job = await running.tailrace.submit("hello")
        text = await messages(gateway, f"/v1/jobs/{job.id}/stream")
        assert [(m.json["text"], m.last_id) for m in text[:-1]] == [(c, c.position) async for c in job.stream()]
        events = await messages(gateway, f"/v1/jobs/{job.id}/events")
        assert [m.json for m in events[:-1]] == [event async for event in job.stream_events()]
        records = await messages(gateway, f"/v1/jobs/{job.id}/records")
        assert [m.last_id for m in records] == [record.position async for record in job.records()]
        for got in (text, events, records):
            assert (got[-1].event, got[-1].last_id, got[-1].json["status"]) == ("end", END, "completed")


async def test_a_browser_that_comes_back_with_any_id_gets_exactly_the_rest(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        job = await running.tailrace.submit("hello", model="rehearsal:tokens=4")
        await job.result()
        for kind in KINDS:
            path = f"/v1/jobs/{job.id}/{kind}"
            whole = await messages(gateway, path)
            for number, message in enumerate(whole[:-1]):
                if number and message.last_id == whole[number - 1].last_id:
                    continue  # the first of several events of a record: who is cut off here gets it again
                rest = whole[number + 1 :]
                for answer in (
                    await messages(gateway, path, **{"Last-Event-ID": message.last_id}),
                    await messages(gateway, f"{path}?after={message.last_id}"),
                    # An EventSource keeps the query that it was opened with.
                    await messages(gateway, f"{path}?after=0-1", **{"Last-Event-ID": message.last_id}),
                ):
                    assert [(m.event, m.data) for m in answer] == [(m.event, m.data) for m in rest]
            for over in (
                await gateway.http.get(path, headers={"Last-Event-ID": END}),
                await gateway.http.get(path, params={"after": END}),
            ):
                assert (over.status_code, over.content) == (204, b"")


async def test_whatever_the_text_each_chunk_is_one_event(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        pen = await pen_of(redis, running.settings.namespace)
        for text in NASTY:
            await pen.write(text)
        await sealed(pen.job)
        got = await messages(gateway, "/v1/jobs/job/stream")
        assert [m.json["text"] for m in got[:-1]] == NASTY
        lines = await gateway.http.get("/v1/jobs/job/stream", headers={"Accept": "application/x-ndjson"})
        assert lines.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line)["data"] for line in lines.content.splitlines()] == [m.json for m in got]


async def test_text_comes_as_it_is_written_from_a_queued_job_on(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        job = await submitted(redis, namespace)
        async with raw(gateway, "/v1/jobs/job/stream") as reader:
            await reader.read(until=lambda: reader.sse.retry is not None)
            pen = await job.claim()
            for number in range(5):
                await pen.write(f"{number} ")
                await reader.read_text(number + 1)
            await sealed(job)
            await reader.read()
            assert reader.ended
            assert b"transfer-encoding: chunked" in reader.head
            assert reader.sse.messages[-1].event == "end"


async def test_a_rewind_tells_what_to_show_instead(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        pen = await pen_of(redis, namespace)
        kept = await pen.write("one ")
        await pen.write("two ")
        async with raw(gateway, "/v1/jobs/job/stream") as reader:
            await reader.read(until=lambda: reader.text == "one two ")
            await pen.append(["rewind", json.dumps({"run": 0, "to": kept})])
            await pen.write("three")
            await sealed(pen.job)
            await reader.read()
        rewind = next(m for m in reader.sse.messages if m.event == "rewind")
        assert rewind.json == {"text_before": "one "}
        late = await messages(gateway, "/v1/jobs/job/stream")
        assert "".join(m.json["text"] for m in late[:-1]) == "one three"


async def test_a_job_that_ends_badly_says_so_in_its_end(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        pen = await pen_of(redis, namespace)
        await pen.write("some ")
        await sealed(pen.job, Status.CANCELLED)
        for kind in KINDS:
            end = (await messages(gateway, f"/v1/jobs/job/{kind}"))[-1]
            assert (end.event, end.json["status"]) == ("end", "cancelled")


async def test_events_can_be_chosen(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        job = await running.tailrace.submit("hello", tags=["a"])
        await job.result()
        path = f"/v1/jobs/{job.id}/events"
        wanted = await messages(gateway, f"{path}?include_types=chat_model&version=v1")
        assert {m.json["event"] for m in wanted[:-1]} == {
            f"on_chat_model_{what}" for what in ("start", "stream", "end")
        }
        assert len(await messages(gateway, f"{path}?exclude_types=chat_model&exclude_types=chain")) == 1
        assert (await gateway.http.get(f"{path}?version=v3")).status_code == 422


async def test_a_quiet_stream_has_heartbeats(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running, heartbeat_s=0.02) as gateway:
        pen = await pen_of(redis, namespace)
        async with raw(gateway, "/v1/jobs/job/stream") as reader:
            await reader.read(until=lambda: reader.sse.comments >= 3)
            assert reader.sse.retry == 1000
            assert not reader.sse.messages
            await pen.write("text")
            await reader.read(until=lambda: reader.text == "text")


async def test_a_position_of_another_log_is_gone_before_the_stream_begins(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        pen = await pen_of(redis, namespace)
        await pen.write("text")
        for kind in KINDS:
            answer = await gateway.http.get(f"/v1/jobs/job/{kind}?after=1234567-1")
            assert (answer.status_code, answer.json()["error"]["code"]) == (410, "position_lost")
            answer = await gateway.http.get(f"/v1/jobs/job/{kind}?after=soon")
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


async def test_lost_records_are_gone_before_the_stream_begins(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        pen = await pen_of(redis, namespace)
        await pen.write("text")
        await archived(pen.job)
        await redis.delete(running.settings.keys.snapshot("job"))
        answer = await gateway.http.get("/v1/jobs/job/stream")
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "history_lost")


async def test_what_is_lost_in_mid_stream_cuts_the_connection_without_an_end(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        pen = await pen_of(redis, namespace)
        await pen.write("one ")
        async with raw(gateway, "/v1/jobs/job/stream") as reader, raw(gateway, "/v1/jobs/job/records") as other:
            await reader.read(until=lambda: reader.text)
            await other.read(until=lambda: len(other.sse.messages) == 3)
            hole = await pen.write("two ")
            await reader.read(until=lambda: reader.text == "one two ")
            await other.read(until=lambda: len(other.sse.messages) == 4)
            # A publication that does not fit sends every reader to the log, which has lost what was there.
            await redis.delete(running.settings.keys.log("job"))
            await Broker(redis).call("PUBLISH", running.settings.keys.live("job"), f"{hole}0\n{hole}1 chunk 1\nx\n")
            await reader.read()
            await other.read()
            assert not reader.ended
            assert not other.ended
            assert reader.text == "one two "


async def test_a_reader_that_takes_nothing_is_dropped_and_the_others_get_everything(
    real_redis: Redis, namespace: str
) -> None:
    async with (
        engine(real_redis, namespace, with_worker=False) as running,
        served(running, stalled_s=0.2, kept_bytes=64 * 1024) as gateway,
    ):
        pen = await pen_of(real_redis, namespace)
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)
            await asyncio.get_running_loop().sock_connect(lazy, gateway.address)
            lazy.send("GET /v1/jobs/job/stream HTTP/1.1\r\nHost: {}:{}\r\n\r\n".format(*gateway.address).encode())
            async with raw(gateway, "/v1/jobs/job/stream") as eager:
                streams = gateway.app.state.gateway.streams
                await wait_until("both read", lambda: len(streams) == 2)
                texts = [f"{number}:" + "x" * 65536 for number in range(100)]
                for number, text in enumerate(texts):
                    await pen.write(text)
                    await eager.read_text(number + 1)
                await wait_until("the lazy one was dropped", lambda: len(streams) == 1)
                seen = Scraped((await gateway.http.get("/metrics")).text)
                assert seen(STREAMS_ENDED, outcome="stalled") == 1
                await sealed(pen.job)
                await eager.read()
                assert eager.ended
                assert eager.text == "".join(texts)
            assert await drained(lazy) < sum(map(len, texts))


async def drained(lazy: socket.socket) -> int:
    """What the kernel still has for a reader, until the connection is cut."""
    loop, size = asyncio.get_running_loop(), 0
    try:
        while received := await loop.sock_recv(lazy, 1 << 20):
            size += len(received)
            assert not received.endswith(b"0\r\n\r\n")
    except ConnectionResetError:
        pass
    return size


async def test_who_goes_away_cancels_nothing_unless_asked_for(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        streams = gateway.app.state.gateway.streams
        for query in ("", "?cancel_on_disconnect=true"):
            job = await running.tailrace.submit("hello", model=ENDLESS)
            async with raw(gateway, f"/v1/jobs/{job.id}/stream{query}") as reader:
                await reader.read_text(5)
                reader.leave()
            await wait_until("the gateway has noticed", lambda: len(streams) == 0)
            if query:
                await wait_until("it is cancelled", partial(is_cancelled, job))
            else:
                assert await job.status() is Status.IN_PROGRESS
                await job.cancel()


async def is_cancelled(job: AsyncJob) -> bool:
    return await job.status() is Status.CANCELLED


async def test_reading_to_the_end_is_no_going_away(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        job = await running.tailrace.submit("hello")
        await messages(gateway, f"/v1/jobs/{job.id}/stream?cancel_on_disconnect=true")
        assert await job.status() == "completed"


async def test_a_gateway_that_shuts_down_cuts_its_streams_and_clients_go_on_with_the_next(
    redis: Redis, namespace: str
) -> None:
    async with engine(redis, namespace, with_worker=False) as running:
        pen = await pen_of(redis, namespace)
        async with served(running) as gateway, raw(gateway, "/v1/jobs/job/stream") as reader:
            await pen.write("one ")
            await reader.read(until=lambda: reader.text)
            gateway.server.should_exit = True
            await reader.read()
            assert not reader.ended
        async with served(running) as gateway:
            await pen.write("two ")
            await sealed(pen.job)
            rest = await messages(gateway, "/v1/jobs/job/stream", **{"Last-Event-ID": reader.sse.last_id})
            assert [m.json["text"] for m in rest[:-1]] == ["two "]


async def test_many_readers_from_many_positions_get_the_same_text(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running, kept_bytes=2048) as gateway:
        job = await running.tailrace.submit("hello", model="rehearsal:tokens=150,pace=0.002")

        async def read(leave_after: Sequence[int]) -> str:
            text, last_id = "", ""
            for limit in leave_after:
                headers = [f"Last-Event-ID: {last_id}"] if last_id else []
                async with raw(gateway, f"/v1/jobs/{job.id}/stream", *headers) as reader:
                    await reader.read_text(limit)
                    text, last_id = text + reader.text, reader.sse.last_id or last_id
            return text

        texts = await asyncio.gather(*(read([number % 7 + 1, number + 1, 10_000]) for number in range(30)))
        assert set(texts) == {await job.text()}


async def pen_of(redis: Redis, namespace: str) -> Pen:
    """The pen of a job that is being worked on."""
    await submitted(redis, namespace)
    return await (await attached(Broker(redis), Keys(namespace), "job")).claim()


def test_the_end_is_a_position_that_clients_only_pass_on() -> None:
    assert Position("18446744073709551615-18446744073709551615") == END
