# The image of the proxy: Node, the libraries that it needs, and the bundled program.
#   docker build -t focus-breaker:1.0.0 .
# BUILD_IMAGE needs node, npm and a shell; its node is copied into the image. RUN_IMAGE needs glibc and libstdc++.
# docs/adr/0015-image.md explains the choice of these two, and why the program is bundled.
ARG BUILD_IMAGE=docker.io/library/node:24.21-trixie-slim
ARG RUN_IMAGE=gcr.io/distroless/cc-debian13

FROM ${BUILD_IMAGE} AS build
# The SBOM is named after this folder.
WORKDIR /focus-breaker
COPY package.json package-lock.json ./
COPY deploy/image ./deploy/image
RUN node deploy/image/keep-bundler.mjs && npm ci --ignore-scripts --no-audit --no-fund
COPY src ./src
# Scanners find the packages of a bundle only in the SBOM.
RUN node deploy/image/bundle.mjs && npm sbom --omit=dev --sbom-format=cyclonedx > focus-breaker.cdx.json \
  && node --eval "fs.mkdirSync('state')"

FROM ${RUN_IMAGE}
LABEL org.opencontainers.image.title="focus-breaker" \
      org.opencontainers.image.description="A reverse proxy with a circuit breaker in front of focus-server" \
      org.opencontainers.image.version="1.0.0" \
      org.opencontainers.image.licenses="MIT"
ENV NODE_ENV=production
COPY --from=build /usr/local/bin/node /usr/local/bin/node
WORKDIR /app
COPY --from=build /focus-breaker/dist ./dist
COPY --from=build /focus-breaker/THIRD-PARTY-LICENSES /focus-breaker/focus-breaker.cdx.json ./
COPY package.json LICENSE ./
COPY config/default.yaml ./config/default.yaml
COPY page ./page
# A new volume takes the owner of the folder on which it is mounted, so the proxy can write its history there.
COPY --from=build --chown=1000:1000 /focus-breaker/state /var/lib/focus-breaker
# A number, because Kubernetes cannot verify that a user name is not root. Any other user works too.
USER 1000:1000
EXPOSE 8080
# Checks only the process: a missing fiber is no reason to restart it. Images in OCI format have no HEALTHCHECK.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/local/bin/node", "dist/cli/healthcheck.js"]
# Without this option, V8 lets its heap grow to at least 256 MB, whatever the memory limit of the container.
ENTRYPOINT ["/usr/local/bin/node", "--max-old-space-size-percentage=40", "dist/cli/main.js"]
CMD ["serve"]
