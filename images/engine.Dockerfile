# The engine's image: tritonserver with our Python backend and kernels. On a base without tritonserver (a CPU image of a
# tenth of the size) it brings the server that local mode uses.
ARG BASE=nvcr.io/nvidia/tritonserver:26.07-py3
FROM ${BASE} AS tools
# Down to the wheel, all three files have the same words, so that a builder which keeps layers does it once for each base.
USER 0
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN cp /var/lib/dpkg/status /base-packages \
    && packages="g++" \
    && { python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3-venv"; } \
    && { python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null \
         || packages="$packages python3-dev"; } \
    && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null \
    && rm -rf /var/lib/apt/lists/*
COPY images/requirements/build.txt /src/images/requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    python3 -m venv /build && /build/bin/pip install -q --require-hashes -r /src/images/requirements/build.txt

# The wheel, with native kernels for the Python of the base.
FROM tools AS wheel
COPY pyproject.toml README.md LICENSE /src/
COPY operator /src/operator
COPY runtime /src/runtime
RUN SOURCE_DATE_EPOCH=315532800 /build/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir /wheel /src

FROM tools AS dependencies
COPY images/requirements/engine.txt /src/images/requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    python3 -m venv --without-pip /opt/flashplane \
    && /build/bin/pip --python /opt/flashplane/bin/python install -q --no-compile --require-hashes \
         -r /src/images/requirements/engine.txt \
    && rm -rf /opt/flashplane/bin/[Aa]ctivate* /opt/flashplane/lib/python3*/site-packages/numpy/*/tests \
    && /opt/flashplane/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/flashplane/lib

# The official image has tritonserver. On another base it is the one that local mode uses, from the wheel nvidia-pytriton.
FROM dependencies AS server
COPY operator/flash_api/__init__.py operator/flash_api/names.py /fetch/flash_api/
COPY runtime/flash_runtime/__init__.py runtime/flash_runtime/tritonserver.py runtime/flash_runtime/wheels.py /fetch/flash_runtime/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    mkdir -p /image/opt \
    && if [ ! -x /opt/tritonserver/bin/tritonserver ]; then \
         PYTHONPATH=/fetch FLASHPLANE_CACHE=/cache /opt/flashplane/bin/python -m flash_runtime.tritonserver \
         && mv /cache/tritonserver/* /image/opt/pytriton \
         && ln -s pytriton/pytriton/tritonserver /image/opt/tritonserver; \
       fi

FROM server AS installed
COPY --from=wheel /wheel /wheel
COPY images/sbom.py /src/images/
RUN /build/bin/pip --python /opt/flashplane/bin/python install -q --no-compile --no-deps --no-index /wheel/*.whl \
    && /opt/flashplane/bin/python -m compileall -q --invalidation-mode unchecked-hash \
         /opt/flashplane/lib/python3*/site-packages/flash_*
RUN mkdir -p /image/opt && mv /opt/flashplane /image/opt/ \
    && /build/bin/python /src/images/sbom.py --name flashplane-engine --debian /base-packages --root /image \
         --out /image/usr/share/flashplane/sbom.cdx.json \
    && find /image -exec touch --no-dereference --date=@0 {} +

FROM ${BASE}
ARG BASE
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Flashplane engine" \
      org.opencontainers.image.description="The engine: tritonserver with Flashplane's Python backend and kernels." \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The Flashplane authors" \
      org.opencontainers.image.base.name="$BASE"
COPY --from=installed /image/ /
# HOME and caches are below /tmp, which pods mount: the root is read-only.
ENV PATH=/opt/flashplane/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp XDG_CACHE_HOME=/tmp/.cache PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["flash-engine"]
CMD []
