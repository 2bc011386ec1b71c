#!/bin/sh
# The three steps of a client with curl: list the tasks, download the tool, upload each report.
#
#   curl.sh URL CERTIFICATE TOOL REPORT...
#
# CERTIFICATE is the authority to trust, in PEM ('' for the system's own); TOOL is where the tool is saved.
set -eu
api=$1/xyz/api/cleaner/tasks certificate=$2 tool=$3
shift 3

fail() {
    echo "curl.sh: $*" >&2
    exit 1
}

# On an error status the answer is shown all the same: it says what was wrong.
request() {
    curl --silent --show-error --fail-with-body --max-time 30 ${certificate:+--cacert "$certificate"} "$@"
}

tasks=$(request "$api") || fail "cannot list the tasks: $tasks"
echo "$tasks" | grep --quiet '"id": *1,' || fail "task 1 is not listed: $tasks"

request --output "$tool" "$api/download?id=1" || fail "cannot download the tool"

for report; do
    answer=$(request --form "file=@$report" "$api/report?id=1") || fail "cannot upload $report: $answer"
    echo "$answer" | grep --quiet '"status": *"PASSED"' || fail "$report has not passed: $answer"
done

echo ok
