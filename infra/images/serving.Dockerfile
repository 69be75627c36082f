# One published model as a SageMaker endpoint, in a hospital's own account.
#
#     docker build -f infra/images/serving.Dockerfile .
#
# SageMaker starts it with the argument `serve`; it answers on port 8080. It trains nothing, so it
# has neither torch nor Flower. The base is pinned by its digest: compare it with what your registry
# shows before you build.
ARG BASE=docker.io/library/python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254

FROM ${BASE} AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/flo \
 && /opt/flo/bin/pip install --no-cache-dir -c constraints.txt \
      cryptography httptools numpy onnxruntime pydantic safetensors scipy starlette uvicorn uvloop \
 && /opt/flo/bin/pip install --no-cache-dir --no-deps -c constraints.txt . \
 && /opt/flo/bin/pip uninstall -y pip

FROM ${BASE}
RUN groupadd --gid 10001 flo \
 && useradd --uid 10001 --gid flo --no-create-home --home-dir /opt/ml --shell /usr/sbin/nologin flo \
 && install -d -o flo -g flo -m 0700 /opt/ml \
 && python -m pip uninstall -y pip setuptools wheel
COPY --from=build /opt/flo /opt/flo
ENV PATH=/opt/flo/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /opt/ml
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/ping', timeout=4)"]
ENTRYPOINT ["python", "-m", "flo.infra.aws.serving.container"]
CMD ["serve"]
