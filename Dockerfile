# syntax=docker/dockerfile:1
# The image of the proxy: compiled code and its dependencies, run by a user without rights.
#   docker build -t focus-breaker .
#   docker run --read-only -p 8080:8080 -e FOCUS_BREAKER_UPSTREAM_URL=http://focus-server:5000 focus-breaker
ARG NODE_IMAGE=node:20.20-bookworm-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
RUN npm run build && npm prune --omit=dev

FROM ${NODE_IMAGE}
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY config/default.yaml ./config/default.yaml
COPY page ./page
# By number: Kubernetes cannot tell of a name that it is not root.
USER 1000:1000
EXPOSE 8080
# Of the process alone: a missing fiber is no reason to restart it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["node", "dist/cli/healthcheck.js"]
ENTRYPOINT ["node", "dist/cli/main.js"]
CMD ["serve"]
