# Shared by scripts/demo and scripts/test: sourced, never run.
# Makes a virtual environment of this clone's own from pinned and hashed requirements, and does nothing where that is
# already done. It names no package index: pip uses whatever the machine is configured with.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV

say() { printf '==> %s\n' "$*" >&2; }

# stop WHAT [MEND]
stop() {
    printf 'stopped: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '   mend: %s\n' "$2" >&2
    exit 1
}

digest() { cat "$@" 2>/dev/null | sha256sum | cut -c1-64; }

# Prints the machine's first Python that is new enough and can make a virtual environment (Debian ships that apart).
find_python() {
    local name
    for name in ${MUNIMENT_PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            "$name" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

# make_venv DIRECTORY REQUIREMENTS: DIRECTORY/bin/python has exactly these when it returns.
make_venv() {
    local venv=$1 requirements=$2 python wanted
    if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$(find_python) || stop "no Python 3.11 or newer that can make virtual environments" \
            "install it (on Debian: apt-get install python3-venv), or name one in MUNIMENT_PYTHON"
        say "making $venv with $("$python" --version)"
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    wanted=$(digest "$requirements" requirements/build.txt)
    if [ "$(cat "$venv/requirements.stamp" 2>/dev/null)" != "$wanted" ]; then
        say "installing $requirements (pinned, with hashes)"
        "$venv/bin/python" -m pip install --quiet --require-hashes -r "$requirements" -r requirements/build.txt \
            || stop "pip could not install $requirements" "see its message above; the network or pip's own configuration is at fault"
        echo "$wanted" > "$venv/requirements.stamp"
    fi
}

# install_package DIRECTORY: this clone in that environment, editable; the scan room compiled where a compiler is found
# and MUNIMENT_PLAIN is not set. What was compiled from other sources than those that stand here is removed: it would run.
install_package() {
    local venv=$1 wanted sources
    sources=$(digest src/muniment/scan/*.p*)
    if [ "$(cat src/muniment/scan/compiled.sha256 2>/dev/null)" != "$sources" ]; then
        rm -f src/muniment/scan/*.so src/muniment/scan/compiled.sha256
    fi
    wanted="$PWD ${MUNIMENT_PLAIN:+plain} $(can_compile "$venv" && echo compiled) $(digest pyproject.toml setup.py) $sources"
    if [ "$(cat "$venv/package.stamp" 2>/dev/null)" != "$wanted" ] \
        || { can_compile "$venv" && [ ! -e src/muniment/scan/compiled.sha256 ]; }; then
        say "installing muniment into $venv"
        "$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --no-index --editable . \
            || stop "muniment could not be installed into $venv" "see pip's message above"
        echo "$wanted" > "$venv/package.stamp"
    fi
}

can_compile() {
    [ -z "${MUNIMENT_PLAIN:-}" ] && command -v "${CC:-cc}" >/dev/null \
        && [ -e "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ]
}
