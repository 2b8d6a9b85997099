#!/bin/sh
# Makes requirements.lock from requirements.in: the newest versions that fit
# Python 3.11 (Debian 12) and later (Debian 13 has 3.13), with the hashes of all
# their files. Needs python3 with venv, and a package index. It is not part of
# "go generate", because it takes what is newest today: look at the versions that
# changed, build the template and run all tests before you commit them.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uv
"$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --only-binary :all: --no-emit-index-url --no-header --upgrade \
	requirements.in --output-file "$work/lock"
{
	echo "# Made by lock.sh from requirements.in; do not edit."
	cat "$work/lock"
} > "$work/requirements.lock"
mv "$work/requirements.lock" requirements.lock
chmod 644 requirements.lock
