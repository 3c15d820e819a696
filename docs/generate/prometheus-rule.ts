import { readFileSync } from 'node:fs'
import { root } from './repository.js'

/**
 * The alerts as a resource of the Prometheus operator. It is a copy, because Kustomize reads no file above a
 * kustomization, and cannot put the groups of a rule file into a resource.
 */
export function prometheusRule(): string {
  const rules = readFileSync(`${root}deploy/prometheus/alerts.yml`, 'utf8')
  const groups = rules.slice(rules.indexOf('groups:'))
  return `# Generated from deploy/prometheus/alerts.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  labels: { app.kubernetes.io/name: focus-breaker }
  name: focus-breaker
spec:
${groups.replaceAll(/^(?=.)/gm, '  ')}`
}
