# One image for every process: `docker build --build-arg EXTRA=gpu .` makes the one for CUDA.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRA=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /app
# Dependencies first: they change less often than the code and take longer.
COPY pyproject.toml constraints*.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['${EXTRA}'], sep='\n')" > requirements.txt \
    && touch constraints.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt
COPY . .
# Editable: Penstock runs from its checkout, here /app, where the models stand beside the code.
RUN pip install --no-deps --editable . && python -m compileall -q /app

FROM python:${PYTHON}-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin penstock
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
# One process a container: whichever it is, its operators find it on port 9400.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PENSTOCK_HTTP__HOST=0.0.0.0 \
    PENSTOCK_HTTP__WORKER_PORT=9400 \
    PENSTOCK_HTTP__WAREHOUSE_PORT=9400 \
    PENSTOCK_HTTP__MONITOR_PORT=9400
EXPOSE 9400
USER penstock
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9400/healthz', timeout=4)"]
ENTRYPOINT ["penstock"]
CMD ["worker"]
