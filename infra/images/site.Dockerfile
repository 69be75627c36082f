# A hospital's agent, which dials out only; its folder is mounted at /var/lib/flo/site.
#
#     docker build -f infra/images/site.Dockerfile .
#
# For machines without a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
# The base is pinned by its digest: compare it with what your registry shows before you build.
ARG BASE=docker.io/library/python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254

FROM ${BASE} AS build
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
COPY . .
RUN python -m venv /opt/flo \
 && /opt/flo/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.6" \
 && /opt/flo/bin/pip install --no-cache-dir -c constraints.txt ".[explain]" \
 && /opt/flo/bin/pip uninstall -y pip

FROM ${BASE}
RUN groupadd --gid 10001 flo \
 && useradd --uid 10001 --gid flo --no-create-home --home-dir /var/lib/flo --shell /usr/sbin/nologin flo \
 && install -d -o flo -g flo -m 0700 /var/lib/flo \
 && python -m pip uninstall -y pip setuptools wheel
COPY --from=build /opt/flo /opt/flo
ENV PATH=/opt/flo/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1
USER 10001:10001
WORKDIR /var/lib/flo
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import fcntl, os, sys; f = os.open('/var/lib/flo/site/agent.lock', os.O_RDWR)\ntry: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: sys.exit(0)\nsys.exit(1)"]
ENTRYPOINT ["flo", "site", "run", "--home", "/var/lib/flo/site"]
