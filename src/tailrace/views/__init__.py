"""What readers see: pure folds over the records of one log, without a socket or an await.

A view is fed a job's entries in log order and gives back what its reader gets: text (`TextView`), events in the shape
of LangChain's StreamEvent (`EventsView`), the result (`ResultView`). All of them know that records can become void: by
a rewind of their run, or because the server lost them. May import tailrace.schemas only."""

from tailrace.views.events import EventsView
from tailrace.views.result import ResultView, result_of
from tailrace.views.text import Rewound, TextView
from tailrace.views.view import View

__all__ = [
    "EventsView",
    "ResultView",
    "Rewound",
    "TextView",
    "View",
    "result_of",
]
