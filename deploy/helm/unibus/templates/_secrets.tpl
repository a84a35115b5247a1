{{/* The Secrets that the container reads as files, each with the name of its folder. */}}
{{- define "unibus.secrets" -}}
{{- dict
  "keys" .Values.auth.keysSecret
  "tls" .Values.tls.secret
  "client-ca" .Values.tls.clientCaSecret
  "nats" .Values.nats.credentialsSecret
  "nats-tls" .Values.nats.tlsSecret
  | toJson -}}
{{- end -}}

{{- define "unibus.mounts" -}}
{{- range $folder, $secret := include "unibus.secrets" . | fromJson }}
{{- if $secret }}
- name: {{ $folder }}
  mountPath: /etc/unibus/{{ $folder }}
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "unibus.volumes" -}}
{{- range $folder, $secret := include "unibus.secrets" . | fromJson }}
{{- if $secret }}
- name: {{ $folder }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end -}}
