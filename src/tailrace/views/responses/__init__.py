"""The Responses API's events and objects, of any job.

`ResponsesView` and `response_object` are what a gateway shows of a job, whatever its upstream speaks; `NativeResponsesView`
is the upstream's own stream, for clients that believe to talk to it."""

from tailrace.views.responses.object import response_usage
from tailrace.views.responses.passthrough import NativeResponsesView
from tailrace.views.responses.view import ResponsesView, response_object

__all__ = ["NativeResponsesView", "ResponsesView", "response_object", "response_usage"]
