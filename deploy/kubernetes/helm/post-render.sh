#!/bin/sh
# A post-renderer for Helm: reads what a chart renders, applies a Component to it, and writes the result. Needs kubectl.
# The argument is the folder of the Component, from deploy/kubernetes: overlays/take-over-service by default.
set -eu
cd -P "$(dirname "$0")/.."
# Kustomize reads files only, and Components only by a relative path.
folder=$(mktemp -d ./.post-render.XXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
cat > "$folder/chart.yaml"
cat > "$folder/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [chart.yaml]
components: [../${1:-overlays/take-over-service}]
END
kubectl kustomize "$folder"
