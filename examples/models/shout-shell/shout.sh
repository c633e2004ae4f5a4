#!/usr/bin/env bash
# A model in bash and jq. One jq serves all calls: it reads an input per line and writes a line per word.
set -euo pipefail

echo "shouting with $(jq --version)" >&2 # standard error is the model's log

exec jq --unbuffered --compact-output '
  try (
    (.text | ascii_upcase | splits("\\s+") | select(. != "") | {final: false, output: .}),
    {final: true}
  ) catch {error: tostring}
'
