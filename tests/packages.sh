# Sourced by scripts: what installs what a fresh Debian machine lacks, and only that; and the version.
# shellcheck shell=bash

# need WHAT PACKAGE [WHAT PACKAGE]...: every WHAT is a command or, where it has a slash, a pattern of
# file names. The packages of those that are not there are installed; where they cannot be, says
# which they are and fails.
need() {
    local -A missing=() # a set
    while [ $# -gt 0 ]; do
        case $1 in
        */*) compgen -G "$1" >/dev/null || missing[$2]=1 ;;
        *) command -v "$1" >/dev/null || missing[$2]=1 ;;
        esac
        shift 2
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    # Another apt may hold the lock for a while.
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    [ "$(id -u)" = 0 ] || apt=(sudo "${apt[@]}")
    if command -v apt-get >/dev/null; then
        echo "Installing what is missing: ${!missing[*]}"
        "${apt[@]}" update || true # old lists may do where there is no network
        "${apt[@]}" install -y --no-install-recommends "${!missing[@]}" >/dev/null && return 0
    fi
    echo "Missing, and could not be installed (Debian's package names): ${!missing[*]}" >&2
    return 1
}

# version_of SOURCE: of the library in this folder.
version_of() {
    sed -n 's/^#define BN_VERSION_\(MAJOR\|MINOR\|PATCH\) *//p' "$1/include/batchnorm/bn_layer.h" | paste -sd .
}
