#!/bin/sh
# A post-renderer for Helm: reads the rendered chart, applies a Component to it, and writes the result. Needs kubectl.
# The argument is the Component's folder, relative to deploy/kubernetes; the default is overlays/take-over-service.
set -eu
cd -P "$(dirname "$0")/.."
# Kustomize reads only files, and Components only by relative path.
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
