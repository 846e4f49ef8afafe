{{/* The scorer's pod, the same under a Deployment and under KServe. Arguments: (list $ name scorer), and `scorer.file` is the
application's file. */}}

{{- define "limaml.scorer.name" -}}
{{- include "limaml.object" (list (index . 0) (printf "scorer-%s" (index . 1))) -}}
{{- end -}}

{{- define "limaml.scorer.selector" -}}
{{ include "limaml.selector" (list (index . 0) "scorer") }}
limaml.io/application: {{ index . 1 }}
{{- end -}}

{{- define "limaml.scorer.labels" -}}
{{ include "limaml.labels" (list (index . 0) "scorer") }}
limaml.io/application: {{ index . 1 }}
{{- end -}}

{{/* Longer than the scorer drains and what is under way may take after it (30 s). */}}
{{- define "limaml.scorer.grace" -}}
{{- $scorer := index . 2 -}}
{{- max (int $scorer.terminationGracePeriodSeconds) (add 35 (ceil (dig "serve" "drain_seconds" 5 $scorer.file))) -}}
{{- end -}}

{{/* Whether answers are recorded, and whether in a folder of the workspace's volume. */}}
{{- define "limaml.scorer.exposures" -}}
{{- dig "experiment" "exposures" "url" "" (index . 2).file -}}
{{- end -}}

{{- define "limaml.scorer.spec" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $scorer := index . 2 -}}
serviceAccountName: {{ include "limaml.account" (list $root $root.Values.scorer.serviceAccount "scorer") }}
{{ include "limaml.pod.head" $root }}
terminationGracePeriodSeconds: {{ include "limaml.scorer.grace" . }}
{{- with $scorer.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq $scorer.spread "preferred" }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "limaml.scorer.selector" (list $root $name) | nindent 8 }}
  {{- end }}
{{- end }}
containers:
  - name: {{ ternary "kserve-container" "scorer" $scorer.kserve.enabled }}
    {{- include "limaml.container.head" $root | nindent 4 }}
    command: [limaml]
    args:
      - serve
      - --app={{ include "limaml.files.path" $name }}
      - --workspace={{ $scorer.file.cluster.workspace }}
      - --host=0.0.0.0
      - --port=8080
      - --workers={{ int $scorer.workers }}
    env:
      {{- include "limaml.env" $root | nindent 6 }}
      {{- with $scorer.token.existingSecret }}
      - name: {{ $scorer.file.serve.token_variable }}
        valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $scorer.token.key | quote }}}}
      {{- end }}
    ports:
      - {name: {{ ternary "http1" "http" $scorer.kserve.enabled }}, containerPort: 8080, protocol: TCP}
    # Libraries take a while to load on a busy node. Whether a release is loaded is for the readiness probe to say.
    startupProbe:
      httpGet: {path: /v2/health/live, port: 8080}
      periodSeconds: 2
      timeoutSeconds: 5
      failureThreshold: 150
    readinessProbe:
      httpGet: {path: /v2/health/ready, port: 8080}
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 2
    livenessProbe:
      httpGet: {path: /v2/health/live, port: 8080}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    resources:
      {{- toYaml $scorer.resources | nindent 6 }}
    volumeMounts:
      - {name: applications, mountPath: /etc/limaml/applications, readOnly: true}
      - {name: temporary, mountPath: /tmp}
      {{- if include "limaml.scorer.exposures" . }}
      - {name: spool, mountPath: {{ $scorer.file.experiment.exposures.spool }}}
      {{- end }}
      {{- range $index, $volume := $scorer.file.cluster.volumes }}
      - name: volume-{{ $index }}
        mountPath: {{ $volume.path }}
        readOnly: {{ not (hasPrefix (printf "file://%s/" $volume.path) (include "limaml.scorer.exposures" (list $root $name $scorer))) }}
      {{- end }}
volumes:
  - name: applications
    configMap: {name: {{ include "limaml.object" (list $root "applications") }}}
  - name: temporary
    emptyDir: {sizeLimit: {{ $scorer.temporarySize }}}
  {{- if include "limaml.scorer.exposures" . }}
  - name: spool
    emptyDir: {sizeLimit: {{ $scorer.spoolSize }}}
  {{- end }}
  {{- range $index, $volume := $scorer.file.cluster.volumes }}
  - name: volume-{{ $index }}
    persistentVolumeClaim: {claimName: {{ $volume.claim }}}
  {{- end }}
{{- end -}}

{{/* The Service that requests go to, and its port: KServe makes its own. */}}
{{- define "limaml.scorer.service" -}}
{{- include "limaml.scorer.name" . }}{{ if (index . 2).kserve.enabled }}-predictor{{ end -}}
{{- end -}}

{{- define "limaml.scorer.port" -}}
{{- ternary 80 (int .service.port) .kserve.enabled -}}
{{- end -}}

{{/* The host of an Ingress or a route: (list "ingress" name settings). */}}
{{- define "limaml.host" -}}
{{- $settings := index . 2 -}}
{{- if $settings.host -}}
{{- $settings.host -}}
{{- else if $settings.domain -}}
{{- printf "%s.%s" (index . 1 | replace "_" "-") $settings.domain -}}
{{- else -}}
{{- fail (printf "scorer.%s.domain: required where scorer.%s.enabled, or applications.%s.scorer.%s.host" (index . 0) (index . 0) (index . 1) (index . 0)) -}}
{{- end -}}
{{- end -}}
