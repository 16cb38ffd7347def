#!/bin/sh
# Gives each peer an environment of its own in .cache/peers, because they want different versions of redis-py.
# Called by `make bench-faults`; what is there already stays.
set -eu
python=${PYTHON:-python3}
cd "$(dirname "$0")/../.."
for list in bench/peers/*.txt; do
    folder=.cache/peers/$(basename "$list" .txt)
    if [ -f "$folder/ready" ] && [ ! "$list" -nt "$folder/ready" ]; then continue; fi
    echo "bench-faults: installing $list into $folder (once)"
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --clear --python "$python" "$folder"
        uv pip install --quiet --python "$folder/bin/python" --requirement "$list"
    else
        "$python" -m venv --clear "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list"
    fi && touch "$folder/ready" || echo "bench-faults: $list cannot be installed; this peer is left out" >&2
done
