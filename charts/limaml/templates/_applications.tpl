{{/* The applications: which there are, their files, and their scorers. */}}

{{/* Enabled applications by name. */}}
{{- define "limaml.applications" -}}
{{- $enabled := dict -}}
{{- range $name, $application := .Values.applications -}}
{{- if and $application (ne (toString $application.enabled) "false") -}}
{{- $_ := set $enabled $name $application -}}
{{- end -}}
{{- end -}}
{{- $enabled | toYaml -}}
{{- end -}}

{{/* Files of applications that are disabled, or were in the release until now (Helm asks the cluster; a mere rendering of
the chart does not know them). */}}
{{- define "limaml.removed" -}}
{{- $root := . -}}
{{- $enabled := include "limaml.applications" . | fromYaml -}}
{{- $removed := dict -}}
{{- range $name, $application := .Values.applications -}}
{{- if and $application (not (hasKey $enabled $name)) -}}
{{- $_ := set $removed (printf "%s.yaml" $name) (include "limaml.file" (list $root $name $application)) -}}
{{- end -}}
{{- end -}}
{{- $before := lookup "v1" "ConfigMap" .Release.Namespace (include "limaml.object" (list . "applications")) -}}
{{- range $file, $content := $before.data | default dict -}}
{{- if not (hasKey $enabled (trimSuffix ".yaml" $file)) -}}
{{- $_ := set $removed $file (get $removed $file | default $content) -}}
{{- end -}}
{{- end -}}
{{- $removed | toYaml -}}
{{- end -}}

{{/* An application's scorer: `scorer` with what the application says of its own: (list $ application). */}}
{{- define "limaml.scorer" -}}
{{- mergeOverwrite (deepCopy (index . 0).Values.scorer) ((index . 1).scorer | default dict | deepCopy) | toYaml -}}
{{- end -}}

{{/* Scorers that are to be there, by application's name. */}}
{{- define "limaml.scorers" -}}
{{- $root := . -}}
{{- $scorers := dict -}}
{{- range $name, $application := include "limaml.applications" . | fromYaml -}}
{{- $scorer := include "limaml.scorer" (list $root $application) | fromYaml -}}
{{- if $scorer.enabled -}}
{{- $_ := set $scorers $name $scorer -}}
{{- end -}}
{{- end -}}
{{- $scorers | toYaml -}}
{{- end -}}

{{/* An application's file: what it says, over what the chart knows of the cluster: (list $ name application). */}}
{{- define "limaml.file" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $own := deepCopy ((index . 2).config | default dict) -}}
{{- $scorer := include "limaml.scorer" (list $root (index . 2)) | fromYaml -}}
{{- if ne ($own.name | default $name) $name -}}
{{- fail (printf "applications.%s.config.name: is %s; leave it out, or give it that key" $name $own.name) -}}
{{- end -}}
{{- $claim := include "limaml.claim" $root -}}
{{- $ownCluster := $own.cluster | default dict -}}
{{- $secrets := concat (include "limaml.secrets" $root | fromYamlArray) ($ownCluster.secrets | default list) -}}
{{- $volumes := $ownCluster.volumes | default list -}}
{{- if $claim -}}
{{- $volumes = prepend $volumes (dict "claim" $claim "path" $root.Values.workspace.persistence.mountPath) -}}
{{- end -}}
{{- $cluster := dict
    "workspace" (include "limaml.workspace" $root)
    "image_pull_policy" $root.Values.image.pullPolicy
    "image_pull_secrets" $root.Values.image.pullSecrets
    "environment" (include "limaml.variables" $root | fromYaml) -}}
{{- if or $root.Values.runs.serviceAccount.create $root.Values.runs.serviceAccount.name -}}
{{- $_ := set $cluster "service_account" (include "limaml.account" (list $root $root.Values.runs.serviceAccount "runs")) -}}
{{- end -}}
{{- $serve := dict -}}
{{- if $scorer.readyWithoutRelease }}{{ $_ := set $serve "ready_without_release" true }}{{ end -}}
{{- if $scorer.token.existingSecret }}{{ $_ := set $serve "token_variable" "LIMAML_SCORER_TOKEN" }}{{ end -}}
{{- $chart := dict "name" $name "cluster" $cluster "serve" $serve -}}
{{- with include "limaml.store.url" $root }}{{ $_ := set $chart "store" (dict "url" .) }}{{ end -}}
{{- if dig "experiment" "exposures" "url" "" $own -}}
{{- $_ := set $chart "experiment" (dict "exposures" (dict "spool" "/var/spool/limaml")) -}}
{{- end -}}
{{- $file := mergeOverwrite $chart $own -}}
{{- $_ := set $file.cluster "secrets" ($secrets | default list) -}}
{{- $_ := set $file.cluster "volumes" $volumes -}}
{{- if and (not $claim) (not (dig "store" "url" "" $file)) -}}
{{- fail (printf "store.url: required (or applications.%s.config.store.url), since workspace.uri is not on a volume: redis://…, rediss://… or dynamodb://…" $name) -}}
{{- end -}}
{{- if and (not $claim) (not (hasKey $file.cluster.environment "MLFLOW_TRACKING_URI")) -}}
{{- fail "mlflow.trackingUri: required, since workspace.uri is not on a volume" -}}
{{- end -}}
{{- $file | toYaml -}}
{{- end -}}

{{/* Where applications' files are mounted: a volume's source. */}}
{{- define "limaml.files.volume" -}}
- name: applications
  configMap: {name: {{ include "limaml.object" (list . "applications") }}}
- name: temporary
  emptyDir: {sizeLimit: 256Mi}
{{- end -}}

{{- define "limaml.files.path" -}}
/etc/limaml/applications/{{ . }}.yaml
{{- end -}}
