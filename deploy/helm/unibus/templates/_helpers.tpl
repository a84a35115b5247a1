{{- define "unibus.name" -}}
{{- .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "unibus.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 57 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 57 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "unibus.selector" -}}
app.kubernetes.io/name: {{ include "unibus.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "unibus.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "unibus.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* What no schema can say: which values must come together. */}}
{{- define "unibus.check" -}}
{{- if and (eq .Values.auth.mode "enforce") (not .Values.auth.keysSecret) (not .Values.auth.jwks) (not .Values.tls.clientCaSecret) -}}
{{- fail "auth.mode enforce needs auth.keysSecret, auth.jwks or tls.clientCaSecret" -}}
{{- end -}}
{{- if and .Values.tls.clientCaSecret (not .Values.tls.secret) -}}
{{- fail "tls.clientCaSecret needs tls.secret" -}}
{{- end -}}
{{- if and .Values.nats.credentialsSecret .Values.nats.passwordSecret -}}
{{- fail "set nats.credentialsSecret or nats.passwordSecret, not both" -}}
{{- end -}}
{{- if and .Values.nats.tlsClient (not .Values.nats.tlsSecret) -}}
{{- fail "nats.tlsClient needs nats.tlsSecret" -}}
{{- end -}}
{{- end -}}

{{/* The flags of the service, as variables. */}}
{{- define "unibus.flags" -}}
{{- $flags := dict
  "listen" "0.0.0.0:50051"
  "admin-listen" "0.0.0.0:50052"
  "nats-url" .Values.nats.url
  "nats-sync" .Values.nats.sync
  "registry-replicas" .Values.nats.registryReplicas
  "auth" .Values.auth.mode
  "drain-timeout" (printf "%ds" (int .Values.drainSeconds))
  "log-format" "json"
-}}
{{- if eq .Values.auth.mode "off" }}{{ $_ := set $flags "auth-insecure" "true" }}{{ end -}}
{{- with .Values.auth.keysSecret -}}
{{- $files := list -}}
{{- range $.Values.auth.keysFiles }}{{ $files = append $files (printf "/etc/unibus/keys/%s" .) }}{{ end -}}
{{- $_ := set $flags "auth-keys" (join "," $files) -}}
{{- end -}}
{{- with .Values.auth.jwks }}{{ $_ := set $flags "auth-jwks" . }}{{ end -}}
{{- with .Values.auth.issuer }}{{ $_ := set $flags "auth-issuer" . }}{{ end -}}
{{- with .Values.auth.audience }}{{ $_ := set $flags "auth-audience" . }}{{ end -}}
{{- with .Values.auth.admins }}{{ $_ := set $flags "auth-admins" (join "," .) }}{{ end -}}
{{- if .Values.tls.secret -}}
{{- $_ := set $flags "tls-certificate" "/etc/unibus/tls/tls.crt" -}}
{{- $_ := set $flags "tls-key" "/etc/unibus/tls/tls.key" -}}
{{- end -}}
{{- if .Values.tls.clientCaSecret -}}
{{- $_ := set $flags "tls-client-ca" "/etc/unibus/client-ca/ca.crt" -}}
{{- $_ := set $flags "tls-client-auth" .Values.tls.clientAuth -}}
{{- end -}}
{{- if .Values.nats.credentialsSecret }}{{ $_ := set $flags "nats-credentials" "/etc/unibus/nats/nats.creds" }}{{ end -}}
{{- if .Values.nats.tlsSecret }}{{ $_ := set $flags "nats-tls-ca" "/etc/unibus/nats-tls/ca.crt" }}{{ end -}}
{{- if .Values.nats.tlsClient -}}
{{- $_ := set $flags "nats-tls-certificate" "/etc/unibus/nats-tls/tls.crt" -}}
{{- $_ := set $flags "nats-tls-key" "/etc/unibus/nats-tls/tls.key" -}}
{{- end -}}
{{- range $name, $value := merge (deepCopy .Values.flags) $flags }}
- name: UNIBUS_{{ $name | upper | replace "-" "_" }}
  value: {{ if kindIs "float64" $value }}{{ printf "%v" (int64 $value) | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end -}}
