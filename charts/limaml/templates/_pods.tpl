{{/* What all pods have in common. */}}

{{- define "limaml.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Labels and annotations of a pod, none of which changes with the chart's version alone: (list $ "scorer" labels annotations). */}}
{{- define "limaml.pod.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- merge (include "limaml.selector" (list $root (index . 1)) | fromYaml) (index . 2) $root.Values.pods.labels $root.Values.commonLabels | toYaml | nindent 2 }}
{{- with merge (dict) (index . 3) $root.Values.pods.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The head of a pod's spec: PodSecurity "restricted", no token unless a volume brings one. */}}
{{- define "limaml.pod.head" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.pods.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pods.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pods.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* The head of a container that runs our image. */}}
{{- define "limaml.container.head" -}}
image: {{ include "limaml.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{ include "limaml.container.security" . }}
{{- end -}}

{{- define "limaml.container.security" -}}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* The containers' environment: plain variables, each named once, then those from secrets. */}}
{{- define "limaml.env" -}}
{{- range $name, $value := merge (include "limaml.variables" . | fromYaml) (dict "HOME" "/tmp" "OMP_NUM_THREADS" "1") }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range include "limaml.secrets" . | fromYamlArray }}
- name: {{ .variable }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key | quote }}}}
{{- end }}
{{- end -}}
