# A worker (or any other tailrace command): `docker build -t tailrace . && docker run tailrace worker`.
FROM python:3.13.7-slim-trixie AS build
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/tailrace
WORKDIR /build
# The locked dependencies are a layer of their own: a change of ours does not install them again.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --extra worker --no-install-project
COPY README.md CHANGELOG.md LICENSE ./
COPY src src
RUN uv sync --locked --no-dev --extra worker --no-editable

FROM python:3.13.7-slim-trixie
RUN groupadd --system --gid 10001 tailrace \
 && useradd --system --uid 10001 --gid tailrace --no-create-home --home-dir /tmp tailrace
COPY --from=build /opt/tailrace /opt/tailrace
ENV PATH=/opt/tailrace/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["tailrace"]
CMD ["worker"]
