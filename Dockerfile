# The daemon, and what it works with: Python 3.13, and the programs of PostgreSQL 17, for sources from 14 to 17.

FROM debian:trixie-slim AS build

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-pip python3-setuptools python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build

# pip stays behind in this stage: it fills an environment that has none of its own.
COPY requirements.txt ./
RUN python3 -m venv --without-pip /opt/rowvault \
    && pip --python /opt/rowvault/bin/python install \
        --no-cache-dir --only-binary=:all: --require-hashes --requirement requirements.txt

# Debian's setuptools builds the wheel, so that nothing comes in without a hash.
COPY pyproject.toml README.md ./
COPY storage storage
COPY jobs jobs
COPY daemon daemon
RUN pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir wheels . \
    && pip --python /opt/rowvault/bin/python install --no-cache-dir --no-deps --no-index wheels/*.whl


FROM debian:trixie-slim

LABEL org.opencontainers.image.title="Rowvault" \
      org.opencontainers.image.description="Backs up PostgreSQL tables, proves every backup, and brings anything back."

# age and zstd are for whoever restores by hand; the server and pgvector are for drills, and no cluster is set up with them.
RUN mkdir -p /etc/postgresql-common/createcluster.d \
    && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/none.conf \
    && apt-get update \
    && apt-get install --yes --no-install-recommends age ca-certificates postgresql-17 postgresql-17-pgvector \
        python3 tzdata zstd \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 rowvault \
    && useradd --uid 10001 --gid rowvault --no-log-init --home-dir /var/lib/rowvault --shell /usr/sbin/nologin rowvault \
    && install --directory --owner=rowvault --group=rowvault --mode=0700 /var/lib/rowvault /var/tmp/rowvault

COPY --from=build /opt/rowvault /opt/rowvault
COPY deploy/healthcheck.py /opt/rowvault/healthcheck.py

# PostgreSQL's own folder comes before Debian's wrappers, which look for a cluster to talk to.
ENV PATH=/opt/rowvault/bin:/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    ROWVAULT_LOCAL_PATH=/var/lib/rowvault \
    ROWVAULT_HTTP__HOST=0.0.0.0

USER 10001:10001
WORKDIR /var/lib/rowvault
VOLUME /var/lib/rowvault
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "/opt/rowvault/healthcheck.py"]
ENTRYPOINT ["rowvault"]
CMD ["run"]
