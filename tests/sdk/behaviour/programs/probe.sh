#!/bin/sh
# The probe as a shell script that speaks the Runtime API with curl, as `tests/sdk/behaviour/__init__.py` describes it.
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
read -r who </proc/sys/kernel/random/uuid
calls=0

field() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" /tmp/event; }
header() { sed -n "s/^$1: *//Ip" /tmp/headers | tr -d '\r'; }
variables() {
    awk 'BEGIN { for (name in ENVIRON) { value = ENVIRON[name]; gsub(/["\\]/, "\\\\&", value); gsub(/\n/, "\\n", value)
        printf "%s\"%s\":\"%s\"", comma ? "," : "{", name, value; comma = 1 } print "}" }'
}
context() {
    client=$(header lambda-runtime-client-context | sed -n 's/.*"custom": *\({[^}]*}\).*/\1/p')
    left=$(($(header lambda-runtime-deadline-ms) - $(date +%s%3N)))
    printf '{"id":"%s","name":"%s","version":"%s","memory":"%s","arn":"%s","group":"%s","stream":"%s","left":%s,"client":%s}' \
        "$id" "$AWS_LAMBDA_FUNCTION_NAME" "$AWS_LAMBDA_FUNCTION_VERSION" "$AWS_LAMBDA_FUNCTION_MEMORY_SIZE" \
        "$(header lambda-runtime-invoked-function-arn)" "$AWS_LAMBDA_LOG_GROUP_NAME" "$AWS_LAMBDA_LOG_STREAM_NAME" "$left" "${client:-null}"
}
files() {
    printf x >>/tmp/notes
    refused=true
    (echo >/var/task/new) 2>/dev/null && refused=false
    printf '{"who":"%s","folder":"%s","notes":%s,"refused":%s,"data":"%s"}' "$who" "$(pwd)" "$(wc -c </tmp/notes)" "$refused" "$(cat /var/task/data.txt)"
}
fail() { # Where to, and what.
    printf '{"errorType":"ProbeError","errorMessage":"%s","stackTrace":["probe.sh"]}' "$2" |
        curl -sS -o /dev/null -H 'Lambda-Runtime-Function-Error-Type: Function.ProbeError' --data-binary @- "$api/$1"
}
stream() {
    { printf 'first '; sleep "$(awk "BEGIN { print $(field ms) / 1000 }")"; printf last; } |
        curl -sS -o /dev/null -N -X POST -H 'Lambda-Runtime-Function-Response-Mode: streaming' -H 'Transfer-Encoding: chunked' \
            -H 'Content-Type: text/plain' -H 'Expect:' -T - "$api/invocation/$id/response"
}
large() { # Written by a pipe: no variable holds it.
    printf '"'
    head -c "$(field bytes)" /dev/zero | tr '\0' x
    printf '"'
}

case $PROBE_INIT in
raise) fail init/error 'at the start'; exit 1 ;;
exit) exit 5 ;;
hang) sleep 60 ;;
esac
while true; do
    curl -sS -D /tmp/headers -o /tmp/event "$api/invocation/next" || exit 9
    id=$(header lambda-runtime-aws-request-id)
    calls=$((calls + 1))
    what=$(head -c 1000 /tmp/event | grep -q '"do"' && field do)
    grep -q '"requestContext"' /tmp/event && what=http
    case $what in raise | exit | signal | spin | allocate) echo "at $who" >&2 ;; esac
    case $what in
    raise) fail "invocation/$id/error" "$(field message)"; continue ;;
    stream) stream; continue ;;
    exit) exit "$(field code)" ;;
    signal) kill -"$(field number)" $$; sleep 5 ;;
    allocate) held=$(cat /tmp/event); while true; do held=$held$held; done ;;
    spin) while true; do :; done ;;
    sleep) sleep "$(awk "BEGIN { print $(field ms) / 1000 }")" ;;
    esac
    case $what in
    sleep | count) printf '{"who":"%s","calls":%s}' "$who" "$calls" ;;
    environment) variables ;;
    context) context ;;
    print) sed 's/.*\[//; s/\].*//; s/", *"/\n/g; s/"//g' /tmp/event >&2; printf '\nto stderr\n' >&2; printf null ;;
    large) large ;;
    files) files ;;
    http) printf '{"statusCode":200,"headers":{"content-type":"application/octet-stream"},"isBase64Encoded":true,"body":"%s"}' "$(field body)" ;;
    *) cat /tmp/event ;;
    esac | curl -sS -o /dev/null -H 'Expect:' --data-binary @- "$api/invocation/$id/response"
done
