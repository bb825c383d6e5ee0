# Two images from one file:
#   docker build --target serving -t atmr-rl:serving .   the API and the dashboard, without Torch
#   docker build --target full    -t atmr-rl:full    .   with Torch and the tests; its server imports no Torch either
# A default index serves Torch with CUDA, several GB; a CPU index is given with
#   --build-arg PIP_EXTRA_INDEX_URL=...   (PIP_INDEX_URL replaces the default; neither may hold a password)
FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app/backend \
    PATH=/opt/venv/bin:$PATH \
    ATMR_HOME=/app \
    ATMR_BIND=0.0.0.0:8000 \
    NUMBA_CACHE_DIR=/var/cache/atmr
RUN groupadd --gid 10001 atmr \
 && useradd --uid 10001 --gid atmr --home-dir /app --no-create-home --shell /usr/sbin/nologin atmr \
 && mkdir -p /app/backend /app/data /app/models /app/results /var/cache/atmr \
 && ln -s /app/data /app/results /app/backend/ \
 && chown -R atmr:atmr /app /var/cache/atmr
WORKDIR /app/backend

FROM base AS serving-packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements-serving.txt /build/
RUN python -m venv /opt/venv \
 && pip install --no-cache-dir --disable-pip-version-check -r /build/requirements-serving.txt

FROM serving-packages AS full-packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements-rl.txt requirements-dev.txt /build/
RUN pip install --no-cache-dir --disable-pip-version-check -r /build/requirements-rl.txt -r /build/requirements-dev.txt

# The tests need what stands beside the sources: settings, guides, the script that CI runs.
FROM base AS full
COPY --from=full-packages /opt/venv /opt/venv
COPY --chown=atmr:atmr . /app
COPY startup/atmr_rl_gymnasium.pth /opt/venv/lib/python3.11/site-packages/
USER atmr
# Compiled as the user who runs it, so that another processor's first start can compile again.
RUN python scripts/rl/warm_up.py
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "scripts/rl/healthy.py"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:create()"]

# Last, so that `docker build .` makes the small one.
FROM base AS serving
COPY --from=serving-packages /opt/venv /opt/venv
COPY --chown=atmr:atmr LICENSE /app/
COPY --chown=atmr:atmr backend /app/backend
USER atmr
RUN python scripts/rl/warm_up.py
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "scripts/rl/healthy.py"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:create()"]
