{{/* Names and labels. */}}

{{- define "limaml.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "limaml.prefix" -}}
{{- $name := include "limaml.name" . -}}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $whole | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* An object's name, of the prefix and what it is: (list $ "kubeflow"). */}}
{{- define "limaml.object" -}}
{{- $name := printf "%s-%s" (include "limaml.prefix" (index . 0)) (index . 1 | replace "_" "-") -}}
{{- if gt (len $name) 63 -}}
{{- fail (printf "the name %s is %d characters long, Kubernetes takes 63: give a shorter release name or fullnameOverride" $name (len $name)) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* What never changes while an object lives: (list $ "scorer"). */}}
{{- define "limaml.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "limaml.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object: (list $ "scorer"). What the chart itself says stands over `commonLabels`. */}}
{{- define "limaml.labels" -}}
{{- $root := index . 0 -}}
{{- $own := include "limaml.selector" . | fromYaml -}}
{{- $own = merge $own (dict
    "app.kubernetes.io/version" $root.Chart.AppVersion
    "app.kubernetes.io/part-of" "limaml"
    "app.kubernetes.io/managed-by" $root.Release.Service
    "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")) -}}
{{- merge $own $root.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* A service account's name: (list $ settings "kubeflow"). */}}
{{- define "limaml.account" -}}
{{- $settings := index . 1 -}}
{{- $made := ternary (include "limaml.object" (list (index . 0) (index . 2))) "default" $settings.create -}}
{{- $settings.name | default $made -}}
{{- end -}}
