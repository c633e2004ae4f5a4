#!/usr/bin/env bash
# A Penstock worker in curl and jq: claims a job, works on it, hands in the result, and so on until stopped.
#
#   PENSTOCK_URL=http://127.0.0.1:8080 TASK_TYPE=shout examples/worker.sh
#
# The work here is to shout: input {"text": "hello"} becomes result {"text": "HELLO"}. Put your own into `work`.
# Environment: PENSTOCK_URL, AI_SERVICE_TOKEN (if the gateway wants one), TASK_TYPE, MODEL_PROFILE, WORKER_ID,
# LEASE_SECONDS, and MAX_JOBS to stop after so many (for trying out).
set -euo pipefail

url="${PENSTOCK_URL:-http://127.0.0.1:8080}/api/v1/jobs"
worker="${WORKER_ID:-worker.sh-$(hostname)-$$}"
task_type="${TASK_TYPE:-shout}"
model_profile="${MODEL_PROFILE:-bash}"
lease="${LEASE_SECONDS:-30}"

# What it takes to do one job: reads the input on stdin, writes the result on stdout, both JSON.
# Exit status 2 means that the input can never work; any other failure is tried again. `exec` makes the program itself
# the process that is stopped when the job is cancelled.
work() {
    exec jq -ce 'if (.text | type) == "string" then {text: (.text | ascii_upcase)} else halt_error(2) end'
}

# call PATH BODY: posts JSON, prints the answer. The token goes in by a file descriptor, not by the command line, which
# every user of this machine can read. A gateway that is away is asked again for a while.
call() {
    curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused --max-time 90 \
        --config <([ -z "${AI_SERVICE_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$AI_SERVICE_TOKEN") \
        --header 'Content-Type: application/json' --data-binary @- "$url$1" <<<"$2"
}

# Keeps the lease of a job until its stdin ends; stops the work, process $3, when the job was cancelled or lost.
keep() {
    local id=$1 body=$2 busy=$3 answer ended
    while true; do
        ended=0
        read -rt "$((lease / 3 + 1))" || ended=$?
        [ "$ended" -gt 128 ] || return 0 # 1 is the end of stdin; above 128, the time is over
        if ! answer=$(call "/$id/heartbeat" "$body" 2>/dev/null) || jq -e .cancel_requested <<<"$answer" >/dev/null; then
            kill "$busy" 2>/dev/null || true
            return 0
        fi
    done
}

run() {
    local job=$1 id report status busy keeper lifeline
    id=$(jq -r .id <<<"$job")
    report=$(jq -c --arg worker "$worker" '{worker_id: $worker, epoch: .epoch}' <<<"$job")

    jq -c .input <<<"$job" >"$folder/input"
    work <"$folder/input" >"$folder/result" 2>"$folder/error" &
    busy=$!
    # Only this process holds the other end of the pipe, so `keep` ends with it, even if it is killed: the lease of a job
    # that nobody works on must expire.
    exec {lifeline}> >(keep "$id" "$report" "$busy")
    keeper=$!
    # A signal that is trapped interrupts `wait`; the next one returns the status of the work.
    until interrupted='' status=0; wait "$busy" || status=$?; [ -z "$interrupted" ]; do :; done
    exec {lifeline}>&-
    wait "$keeper" 2>/dev/null || true

    if [ "$status" = 0 ]; then
        report=$(jq -c --slurpfile result "$folder/result" '. + {result: $result[0]}' <<<"$report")
        call "/$id/complete" "$report" >/dev/null && echo "completed $id"
    else
        report=$(jq -c --arg category "$(category "$status")" --rawfile message "$folder/error" \
            '. + {category: $category, message: ($message[:1000] | sub("\\s+$"; ""))}' <<<"$report")
        call "/$id/fail" "$report" >/dev/null && echo "failed $id (status $status)"
    fi
}

category() {
    case $1 in
        2 | 5) echo bad_input ;;  # 5 is jq's own: the input is not what the filter can read
        143) echo cancelled ;;    # stopped by `keep`
        *) echo internal ;;
    esac
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
stopping=
trap 'stopping=yes interrupted=yes' TERM INT # the job in hand is finished first

ask=$(jq -nc --arg worker "$worker" --arg type "$task_type" --arg profile "$model_profile" --argjson lease "$lease" \
    '{worker_id: $worker, task_types: [$type], model_profiles: [$profile], limit: 1, lease_seconds: $lease, wait_seconds: 5}')

echo "$worker takes $task_type/$model_profile jobs from $url"
done_jobs=0
while [ -z "$stopping" ] && [ "$done_jobs" -lt "${MAX_JOBS:-1000000000}" ]; do
    if ! answer=$(call /claim "$ask"); then
        echo "no answer from the gateway: $answer" >&2
        sleep 2
        continue
    fi
    job=$(jq -c '.jobs[0] // empty' <<<"$answer")
    [ -n "$job" ] || continue
    run "$job" || echo "the report was refused: the job is no longer ours" >&2
    done_jobs=$((done_jobs + 1))
done
