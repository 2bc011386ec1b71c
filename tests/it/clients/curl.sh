#!/bin/sh
# The three steps of a client with curl: list the tasks, download the tool, upload each report.
#
#   curl.sh TOOL REPORT...
#
# TOOL is where the tool is saved. The server is at $CLEANER_URL; whom curl trusts says its environment too.
set -eu
api=$CLEANER_URL/xyz/api/cleaner/tasks tool=$1
shift

fail() {
    echo "curl.sh: $*" >&2
    exit 1
}

# On an error status the answer is shown all the same: it says what was wrong.
request() {
    curl --silent --show-error --fail-with-body --max-time 20 "$@"
}

tasks=$(request "$api") || fail "cannot list the tasks: $tasks"
echo "$tasks" | grep --quiet '"id": *1,' || fail "task 1 is not listed: $tasks"

request --output "$tool" "$api/download?id=1" || fail "cannot download the tool"

for report; do
    answer=$(request --form "file=@$report" "$api/report?id=1") || fail "cannot upload $report: $answer"
    echo "$answer" | grep --quiet '"status": *"PASSED"' || fail "$report has not passed: $answer"
done

echo ok
