#!/bin/sh
# A client of gyre's control API in shell: client.sh METHOD [JSON]
# Over the socket $GYRE_SOCKET (/run/gyre/gyre.sock unless set), by nc; or, where GYRE_URL is set
# (http://127.0.0.1:9580), over HTTP with the token in GYRE_TOKEN, by curl. Needs jq.
set -eu
[ $# -ge 1 ] || {
    echo "usage: client.sh METHOD [JSON]" >&2
    exit 2
}
method=$1
params=${2:-"{}"}
request=$(jq -cn --arg method "$method" --argjson params "$params" \
    '{jsonrpc: "2.0", id: 1, method: $method, params: $params}')

if [ -n "${GYRE_URL:-}" ]; then
    # The token goes by a file descriptor, so that no list of processes shows it.
    reply=$(printf 'header = "Authorization: Bearer %s"\n' "$GYRE_TOKEN" |
        curl -sS --fail-with-body -K - -d "$request" "$GYRE_URL/rpc")
else
    reply=$(printf '%s\n' "$request" | nc -NU "${GYRE_SOCKET:-/run/gyre/gyre.sock}")
fi

if printf '%s' "$reply" | jq -e 'has("error")' >/dev/null; then
    printf '%s' "$reply" | jq -r '.error | "\(.data.code // .code): \(.message)"' >&2
    exit 1
fi
printf '%s' "$reply" | jq .result
