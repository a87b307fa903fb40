# Two images:
#   docker build -t tailrace .                                       every command: worker, serve, webhooks, doctor ...
#   docker build -t tailrace-local-model --target local-model .      a small language model with its weights
# docs/deploy.md says how they are run.
ARG PYTHON=python:3.13.7-slim-trixie

FROM ${PYTHON} AS build
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/tailrace
ENV EXTRAS="--extra worker --extra gateway --extra webhooks --extra metrics --extra tracing --extra speed"
WORKDIR /build
# The locked dependencies are a layer of their own: a change of ours does not install them again.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev ${EXTRAS} --no-install-project
COPY README.md CHANGELOG.md LICENSE ./
COPY src src
RUN uv sync --locked --no-dev ${EXTRAS} --no-editable

FROM build AS build-local-model
ENV UV_PROJECT_ENVIRONMENT=/opt/local-model TAILRACE_CACHE=/opt/weights
RUN uv sync --locked --no-dev --extra local-model --no-editable
# Pinned by their hash in the module itself.
RUN /opt/local-model/bin/python -c "from tailrace.upstreams.local_model import ensure_model; ensure_model()"

FROM ${PYTHON} AS runtime
RUN groupadd --system --gid 10001 tailrace \
 && useradd --system --uid 10001 --gid tailrace --no-create-home --home-dir /tmp tailrace
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

FROM runtime AS local-model
# llama.cpp's threads.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build-local-model /opt/local-model /opt/local-model
COPY --from=build-local-model /opt/weights /opt/weights
ENV PATH=/opt/local-model/bin:$PATH TAILRACE_CACHE=/opt/weights
USER 10001:10001
EXPOSE 8089
ENTRYPOINT ["python", "-m", "tailrace.upstreams.local_model"]
CMD ["--host", "0.0.0.0", "--port", "8089"]

FROM runtime AS tailrace
COPY --from=build /opt/tailrace /opt/tailrace
ENV PATH=/opt/tailrace/bin:$PATH
USER 10001:10001
EXPOSE 8722 9464
# What is healthy depends on the command: whoever runs it asks /healthz, of the gateway or of the port for metrics.
ENTRYPOINT ["tailrace"]
CMD ["worker"]
