{{- define "flashplane.name" -}}
{{- $name := default .Release.Name .Values.nameOverride -}}
{{- ternary $name (printf "%s-flashplane" $name) (contains "flashplane" $name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "flashplane.fullname" -}}
{{- printf "%s-operator" (include "flashplane.name" .) -}}
{{- end -}}

{{- define "flashplane.externalMetrics" -}}
{{- printf "%s-metrics" (include "flashplane.fullname" .) -}}
{{- end -}}

{{- define "flashplane.selector" -}}
app.kubernetes.io/name: flashplane-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "flashplane.labels" -}}
{{ include "flashplane.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: flashplane
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "flashplane.serviceAccount" -}}
{{- default (include "flashplane.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- /* (dict "root" $ "image" .Values.images.engine "tag" "0.1.0-tritonserver") */ -}}
{{- define "flashplane.image" -}}
{{- $registry := .root.Values.images.registry -}}
{{- $prefix := empty $registry | ternary "" (printf "%s/" $registry) -}}
{{- if .image.digest -}}
{{- printf "%s%s@%s" $prefix .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s%s:%s" $prefix .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "flashplane.seesNodes" -}}
{{- $said := .Values.rbac.nodes -}}
{{- if kindIs "invalid" $said -}}{{- empty .Values.namespaces -}}{{- else -}}{{- $said -}}{{- end -}}
{{- end -}}
