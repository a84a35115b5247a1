# syntax=docker/dockerfile:1
# The service and its embedded nats-server on a distroless base: `docker build -t unibus .`

FROM rust:1.95.0-bookworm AS build
# the toolchain of this image, whatever channel rust-toolchain.toml names
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin unibus \
    && install -D target/release/unibus /out/unibus \
    && install -d /out/data

FROM python:3.13-slim-bookworm AS nats
WORKDIR /src
COPY .cargo/runner .cargo/runner
# the runner brings the nats-server that the tests use, and checks its hash
RUN install -D "$(CARGO_TARGET_DIR=/tmp .cargo/runner printenv UNIBUS_NATS_SERVER)" /out/nats-server

FROM busybox:1.37.0-musl AS shell

FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="unibus" \
      org.opencontainers.image.description="Rooms over gRPC on NATS JetStream" \
      org.opencontainers.image.source="https://github.com/unibus-rs/unibus" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# the guard that ends the embedded nats-server together with the service is a script, and needs these two commands
COPY --from=shell /bin/busybox /bin/sh
COPY --from=shell /bin/busybox /bin/sleep
COPY --from=nats /out/nats-server /usr/local/bin/nats-server
COPY --from=build /out/unibus /usr/local/bin/unibus
# the service refuses a data directory that other users can change
COPY --from=build --chown=65532:65532 --chmod=0700 /out/data /var/lib/unibus
# the service refuses this address while callers are not authenticated
ENV UNIBUS_LISTEN=0.0.0.0:50051 \
    UNIBUS_ADMIN_LISTEN=0.0.0.0:50052 \
    UNIBUS_NATS_SERVER=/usr/local/bin/nats-server \
    UNIBUS_DATA_DIR=/var/lib/unibus \
    UNIBUS_LOG_FORMAT=json
USER 65532:65532
VOLUME /var/lib/unibus
EXPOSE 50051 50052
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/unibus", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/unibus"]
