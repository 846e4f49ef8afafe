{{/* A pod that talks to Kubeflow Pipelines: a Job of ours, or `helm test`. */}}

{{- define "limaml.kubeflow.head" -}}
serviceAccountName: {{ include "limaml.account" (list . .Values.kubeflow.serviceAccount "kubeflow") }}
{{ include "limaml.pod.head" . }}
{{- end -}}

{{- define "limaml.kubeflow.env" -}}
{{ include "limaml.env" . }}
- {name: KF_PIPELINES_ENDPOINT, value: {{ .Values.kubeflow.endpoint | quote }}}
# The pipelines' steps, and who runs them where each team has a namespace.
- {name: LIMAML_IMAGE, value: {{ include "limaml.image" . | quote }}}
- {name: KF_PIPELINES_NAMESPACE, value: {{ .Release.Namespace | quote }}}
{{- with .Values.kubeflow.existingSecret }}
- name: KF_PIPELINES_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.kubeflow.tokenKey | quote }}}}
{{- end }}
{{- end -}}

{{- define "limaml.kubeflow.mounts" -}}
- {name: applications, mountPath: /etc/limaml/applications, readOnly: true}
- {name: removed, mountPath: /etc/limaml/removed, readOnly: true}
- {name: temporary, mountPath: /tmp}
- {name: token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
{{- end -}}

{{/* The projected token is for Kubeflow Pipelines alone: Kubernetes' own API would not take it. */}}
{{- define "limaml.kubeflow.volumes" -}}
{{ include "limaml.files.volume" . }}
- name: removed
  configMap: {name: {{ include "limaml.object" (list . "removed") }}, optional: true}
- name: token
  projected:
    sources:
      - serviceAccountToken: {path: token, audience: pipelines.kubeflow.org, expirationSeconds: 3600}
{{- end -}}

{{/* A new volume belongs to root. The first pod with an fsGroup gives it to the group that steps run as: a scorer, or where
there is none, a Job. */}}
{{- define "limaml.kubeflow.opens" -}}
{{- if and (include "limaml.claim" .) (include "limaml.applications" . | fromYaml) (not (include "limaml.scorers" . | fromYaml)) -}}
true
{{- end -}}
{{- end -}}

{{/* A Job that does one thing to every application: (list $ "apply" script). */}}
{{- define "limaml.kubeflow.job" -}}
{{- $root := index . 0 -}}
spec:
  backoffLimit: {{ int $root.Values.kubeflow.retries }}
  activeDeadlineSeconds: {{ int $root.Values.kubeflow.deadlineSeconds }}
  # One that failed stays for its log to be read; one that succeeded is deleted by Helm.
  ttlSecondsAfterFinished: 86400
  template:
    metadata:
      {{- include "limaml.pod.metadata" (list $root "kubeflow" dict dict) | nindent 6 }}
    spec:
      restartPolicy: Never
      {{- include "limaml.kubeflow.head" $root | nindent 6 }}
      containers:
        - name: {{ index . 1 }}
          {{- include "limaml.container.head" $root | nindent 10 }}
          command: [sh, -c]
          args:
            - |
              {{- index . 2 | trim | nindent 14 }}
          env:
            {{- include "limaml.kubeflow.env" $root | nindent 12 }}
          resources:
            {{- toYaml $root.Values.kubeflow.resources | nindent 12 }}
          volumeMounts:
            {{- include "limaml.kubeflow.mounts" $root | nindent 12 }}
            {{- if include "limaml.kubeflow.opens" $root }}
            - {name: workspace, mountPath: {{ $root.Values.workspace.persistence.mountPath }}}
            {{- end }}
      volumes:
        {{- include "limaml.kubeflow.volumes" $root | nindent 8 }}
        {{- if include "limaml.kubeflow.opens" $root }}
        - name: workspace
          persistentVolumeClaim: {claimName: {{ include "limaml.claim" $root }}}
        {{- end }}
{{- end -}}
