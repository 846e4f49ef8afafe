{{/* Where things are: workspace, store, registry of models, and how to log in there. */}}

{{- define "limaml.workspace" -}}
{{- .Values.workspace.uri | default (printf "file://%s" .Values.workspace.persistence.mountPath) -}}
{{- end -}}

{{/* The claim behind the workspace; empty where it is no volume. */}}
{{- define "limaml.claim" -}}
{{- if not .Values.workspace.uri -}}
{{- .Values.workspace.persistence.existingClaim | default (include "limaml.object" (list . "workspace")) -}}
{{- end -}}
{{- end -}}

{{- define "limaml.store.url" -}}
{{- if .Values.store.url -}}
{{- .Values.store.url -}}
{{- else if .Values.trial.redis.enabled -}}
{{- printf "redis://%s.%s.svc:6379/0" (include "limaml.object" (list . "redis")) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- define "limaml.mlflow.uri" -}}
{{- if .Values.mlflow.trackingUri -}}
{{- .Values.mlflow.trackingUri -}}
{{- else if .Values.trial.mlflow.enabled -}}
{{- printf "http://%s.%s.svc:5000" (include "limaml.object" (list . "mlflow")) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* Plain variables, of scorers, Jobs and the pipelines' steps alike. */}}
{{- define "limaml.variables" -}}
{{- $variables := dict -}}
{{- with .Values.aws.region }}{{ $_ := set $variables "AWS_REGION" . }}{{ end -}}
{{- with .Values.aws.endpointUrl }}{{ $_ := set $variables "AWS_ENDPOINT_URL" . }}{{ end -}}
{{- with include "limaml.mlflow.uri" . }}{{ $_ := set $variables "MLFLOW_TRACKING_URI" . }}{{ end -}}
{{- merge (deepCopy .Values.environment) $variables | toYaml -}}
{{- end -}}

{{/* Variables from secrets, as in an application's `cluster.secrets`. */}}
{{- define "limaml.secrets" -}}
{{- $secrets := list -}}
{{- $redis := .Values.store.redis -}}
{{- if $redis.existingSecret -}}
{{- with $redis.usernameKey }}{{ $secrets = append $secrets (dict "variable" "LIMAML_REDIS_USERNAME" "secret" $redis.existingSecret "key" .) }}{{ end -}}
{{- $secrets = append $secrets (dict "variable" "LIMAML_REDIS_PASSWORD" "secret" $redis.existingSecret "key" $redis.passwordKey) -}}
{{- else if and .Values.trial.redis.enabled (not .Values.store.url) -}}
{{- $secrets = append $secrets (dict "variable" "LIMAML_REDIS_PASSWORD" "secret" (include "limaml.trial.redis.secret" .) "key" "password") -}}
{{- end -}}
{{- $mlflow := .Values.mlflow -}}
{{- if $mlflow.existingSecret -}}
{{- $secrets = append $secrets (dict "variable" "MLFLOW_TRACKING_USERNAME" "secret" $mlflow.existingSecret "key" $mlflow.usernameKey) -}}
{{- $secrets = append $secrets (dict "variable" "MLFLOW_TRACKING_PASSWORD" "secret" $mlflow.existingSecret "key" $mlflow.passwordKey) -}}
{{- else if and .Values.trial.mlflow.enabled (not $mlflow.trackingUri) -}}
{{- $secrets = append $secrets (dict "variable" "MLFLOW_TRACKING_USERNAME" "secret" (include "limaml.trial.mlflow.secret" .) "key" "username") -}}
{{- $secrets = append $secrets (dict "variable" "MLFLOW_TRACKING_PASSWORD" "secret" (include "limaml.trial.mlflow.secret" .) "key" "password") -}}
{{- end -}}
{{- $aws := .Values.aws -}}
{{- if $aws.existingSecret -}}
{{- $secrets = append $secrets (dict "variable" "AWS_ACCESS_KEY_ID" "secret" $aws.existingSecret "key" $aws.accessKeyIdKey) -}}
{{- $secrets = append $secrets (dict "variable" "AWS_SECRET_ACCESS_KEY" "secret" $aws.existingSecret "key" $aws.secretAccessKeyKey) -}}
{{- end -}}
{{- $secrets | toYaml -}}
{{- end -}}

{{- define "limaml.trial.redis.secret" -}}
{{- .Values.trial.redis.existingSecret | default (include "limaml.object" (list . "redis")) -}}
{{- end -}}

{{- define "limaml.trial.mlflow.secret" -}}
{{- .Values.trial.mlflow.existingSecret | default (include "limaml.object" (list . "mlflow")) -}}
{{- end -}}
