#!/bin/sh
# Gives each peer an environment of its own in .cache/peers, because they want different versions of redis-py.
# Called by `make bench-faults` and `make bench-peers`; what is there already stays.
set -eu
python=${PYTHON:-python3}
cd "$(dirname "$0")/../.."
for list in bench/peers/*.txt; do
    folder=.cache/peers/$(basename "$list" .txt)
    if [ -f "$folder/ready" ] && [ ! "$list" -nt "$folder/ready" ]; then continue; fi
    echo "bench: installing $list into $folder (once)"
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --clear --python "$python" "$folder"
        uv pip install --quiet --python "$folder/bin/python" --requirement "$list"
    else
        "$python" -m venv --clear "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list"
    fi && touch "$folder/ready" || echo "bench: $list cannot be installed; this peer is left out" >&2
done

# Only the benchmark has peers on Node.
list=bench/peers/node/package.json
folder=.cache/peers/node
if [ -f "$folder/ready" ] && [ ! "$list" -nt "$folder/ready" ]; then exit 0; fi
if ! command -v npm >/dev/null 2>&1; then
    echo "bench: there is no npm; the peers on Node are left out" >&2
    exit 0
fi
echo "bench: installing $list into $folder (once)"
mkdir -p "$folder"
cp "$list" "$folder/package.json"
{ npm install --prefix "$folder" --omit=dev --no-audit --no-fund --no-package-lock --loglevel=error && touch "$folder/ready"; } ||
    echo "bench: $list cannot be installed; these peers are left out" >&2
