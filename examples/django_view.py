"""A Django project in one file: an async view that submits a prompt, and one that streams the answer.

Start a worker in another terminal (`tailrace worker`), then: uvicorn --app-dir examples django_view:application
"""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_POST

from tailrace import AsyncTailrace, JobEnded, JobNotFound

if not settings.configured:
    settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=secrets.token_hex(), ALLOWED_HOSTS=["localhost", "127.0.0.1"])


@require_POST
async def submit(request: HttpRequest) -> HttpResponse:
    async with AsyncTailrace() as tailrace:
        job = await tailrace.submit(request.POST["prompt"], model="gpt-4o-mini")
    return JsonResponse({"id": job.id})


async def stream(_: HttpRequest, job_id: str) -> HttpResponseBase:
    async with AsyncTailrace() as tailrace:
        try:
            await tailrace.job(job_id).status()
        except JobNotFound:
            return HttpResponse("no such job", status=404)
    return StreamingHttpResponse(text(job_id), content_type="text/plain; charset=utf-8")


async def text(job_id: str) -> AsyncGenerator[str]:
    # Plain text cannot be taken back: StreamRewound cuts the answer off, and the reader asks again.
    async with AsyncTailrace() as tailrace, aclosing(tailrace.job(job_id).stream()) as chunks:
        try:
            async for chunk in chunks:
                yield chunk
        except JobEnded as ended:
            yield f"\n[{ended}]"


urlpatterns = [path("submit", submit), path("jobs/<str:job_id>", stream)]
application = get_asgi_application()
