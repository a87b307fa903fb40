"""The Responses API's events as the upstream of a Responses job sent them: for clients that believe to talk to it."""

from collections.abc import Iterator

from tailrace.schemas import EndRecord, JsonObject, Logprobs
from tailrace.views._openai import OpenAIView
from tailrace.views._parts import Piece
from tailrace.views.responses.native import NativeFold


class NativeResponsesView(OpenAIView):
    """The bodies of a response's events with the upstream's own ids; numbered from 0 without holes."""

    def _begin(self) -> None:
        self._sequence = 0
        self._fold_of_events = NativeFold()

    def _fold(self, piece: Piece) -> Iterator[JsonObject]:
        if isinstance(piece, Logprobs):
            self._fold_of_events.weigh(piece)
            return
        for body in self._fold_of_events.bodies(piece):
            yield self._numbered(body)

    def _close(self, end: EndRecord) -> Iterator[JsonObject]:  # noqa: ARG002 - the final response is in the log
        return iter(())

    def failed(self, error: JsonObject) -> JsonObject:
        """The `response.failed` event for a job that ended badly after it had begun to answer."""
        response: JsonObject = {
            "id": f"resp_{self.job_id}",
            "object": "response",
            "created_at": self.created,
            "model": self.model,
            "status": "failed",
            "error": error,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        return self._numbered({"type": "response.failed", "response": response})

    def _numbered(self, body: JsonObject) -> JsonObject:
        self._sequence += 1
        return {**body, "sequence_number": self._sequence - 1}
