# Chartray with the packages of requirements.lock, each checked by its hash:
#   docker build --tag chartray .
#   docker run --rm --gpus all --network none --user "$(id -u):$(id -g)" -v "$PWD:/work" chartray doctor
# No command needs a network: `--network none` keeps patients' data on this machine. `--shm-size 8g` for several GPUs.
# To keep a build reproducible, name the base by its digest: --build-arg BASE=python:3.13-slim@sha256:...
ARG BASE=python:3.13-slim
FROM ${BASE} AS build
WORKDIR /chartray
COPY pyproject.toml README.md LICENSE requirements.lock ./
# uv itself comes from the lock, checked by hash. The lock has the packages of developers too: those of Chartray alone and of
# what builds it are chosen from it, at its versions and hashes.
RUN python -m venv /opt/chartray \
    && awk '/^[^ #]/ {keep = /^uv==/} keep' requirements.lock > uv.lock \
    && /opt/chartray/bin/python -m pip install --no-cache-dir --require-hashes --only-binary :all: -r uv.lock \
    && cp requirements.lock chosen.lock \
    && printf 'hatchling\nuv\n' > build.in \
    && export VIRTUAL_ENV=/opt/chartray PATH="/opt/chartray/bin:$PATH" \
    && uv pip compile --quiet --no-cache --generate-hashes --output-file chosen.lock pyproject.toml build.in \
    && uv pip sync --no-cache --compile-bytecode --require-hashes chosen.lock
COPY src src
RUN VIRTUAL_ENV=/opt/chartray /opt/chartray/bin/uv pip install --no-cache --no-deps --no-build-isolation --compile-bytecode .

FROM ${BASE}
# The C++ compiler is for --train.compile; pretraining works without it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/chartray /opt/chartray
# Caches go to /tmp, since the user of `--user` has no home in the image.
ENV PATH=/opt/chartray/bin:$PATH HOME=/tmp
WORKDIR /work
ENTRYPOINT ["chartray"]
CMD ["--help"]
