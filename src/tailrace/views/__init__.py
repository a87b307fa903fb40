"""What readers see: pure folds over the records of one log, without a socket or an await.

A view is fed a job's entries in log order and gives back what its reader gets: text (`TextView`), events in the shape
of LangChain's StreamEvent (`EventsView`), the result (`ResultView`), the streams of the OpenAI API (`ChatChunksView`,
`CompletionsView`, `ResponsesView`; `chat_completion`, `completion` and `response_object` make the unstreamed answers). All
of them know that records can become void: by a rewind of their run, or because the server lost them. May import
tailrace.schemas only."""

from tailrace.views._openai import Frame, OpenAIView
from tailrace.views._output import Output, output_of
from tailrace.views._parts import Parts, Text
from tailrace.views._runs import split_event
from tailrace.views.chat_chunks import ChatChunksView, chat_completion
from tailrace.views.completions import CompletionsView, completion
from tailrace.views.events import EventsView
from tailrace.views.responses import NativeResponsesView, ResponsesView, response_object
from tailrace.views.result import ResultView, result_of
from tailrace.views.text import Rewound, TextView
from tailrace.views.view import View

__all__ = [
    "ChatChunksView",
    "CompletionsView",
    "EventsView",
    "Frame",
    "NativeResponsesView",
    "OpenAIView",
    "Output",
    "Parts",
    "ResponsesView",
    "ResultView",
    "Rewound",
    "Text",
    "TextView",
    "View",
    "chat_completion",
    "completion",
    "output_of",
    "response_object",
    "result_of",
    "split_event",
]
