# The image of the proxy: Node, the libraries that it needs, the bundled program, and nothing else.
#   docker build -t focus-breaker:0.1.0 .
# BUILD_IMAGE has node, npm and a shell. Its node is the one that runs later. RUN_IMAGE has glibc and libstdc++.
# docs/adr/0015-image.md says why these two, and why the program is bundled.
ARG BUILD_IMAGE=docker.io/library/node:24.21-trixie-slim
ARG RUN_IMAGE=gcr.io/distroless/cc-debian13

FROM ${BUILD_IMAGE} AS build
# The list of packages takes its name from the folder.
WORKDIR /focus-breaker
COPY package.json package-lock.json ./
COPY deploy/image ./deploy/image
RUN node deploy/image/keep-bundler.mjs && npm ci --ignore-scripts --no-audit --no-fund
COPY src ./src
# Scanners find the packages of a bundle only in the list of them.
RUN node deploy/image/bundle.mjs && npm sbom --omit=dev --sbom-format=cyclonedx > focus-breaker.cdx.json \
  && node --eval "fs.mkdirSync('state')"

FROM ${RUN_IMAGE}
LABEL org.opencontainers.image.title="focus-breaker" \
      org.opencontainers.image.description="A reverse proxy with a circuit breaker in front of focus-server" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
ENV NODE_ENV=production
COPY --from=build /usr/local/bin/node /usr/local/bin/node
WORKDIR /app
COPY --from=build /focus-breaker/dist ./dist
COPY --from=build /focus-breaker/THIRD-PARTY-LICENSES /focus-breaker/focus-breaker.cdx.json ./
COPY package.json LICENSE ./
COPY config/default.yaml ./config/default.yaml
COPY page ./page
# A new volume takes the owner of the folder that it covers, so the proxy can write its history there.
COPY --from=build --chown=1000:1000 /focus-breaker/state /var/lib/focus-breaker
# By number, because Kubernetes cannot tell from a name that it is not root. Any other user will do.
USER 1000:1000
EXPOSE 8080
# Only about the process: a missing fiber is no reason to restart it. An image in the OCI format has no HEALTHCHECK.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/local/bin/node", "dist/cli/healthcheck.js"]
# V8 takes no less than 256 MB for its heap unless it is told how much of the container's memory it may use.
ENTRYPOINT ["/usr/local/bin/node", "--max-old-space-size-percentage=40", "dist/cli/main.js"]
CMD ["serve"]
