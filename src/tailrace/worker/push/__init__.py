"""An HTTP/1.1 transport that pushes: a body's bytes reach their reader inside the event loop's reading callback.

A relay of token streams handles very many very small pieces. Waking a task for each costs several times what reading
and parsing it does, so this transport, used with httpx as any other, also gives each response's body as a `PushBody`.
Nothing is retried and no redirect followed here: that is its callers' business.

May import: httpx2, httptools, aiohappyeyeballs; nothing else of tailrace.
"""

from tailrace.worker.push.body import PushBody
from tailrace.worker.push.proxies import ProxyRefused
from tailrace.worker.push.transport import PushTransport, body_of

__all__ = ["ProxyRefused", "PushBody", "PushTransport", "body_of"]
