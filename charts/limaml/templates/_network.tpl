{{/* What scorers and Jobs may reach: names, and the ports of stores, buckets and Kubeflow. */}}
{{- define "limaml.egress" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
- ports:
    {{- range .Values.networkPolicy.egressPorts }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- with .Values.networkPolicy.egress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The port of Kubeflow Pipelines' API. */}}
{{- define "limaml.kubeflow.port" -}}
{{- $url := urlParse .Values.kubeflow.endpoint -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}
