#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that are missing: `scripts/setup.sh build|test` (see ./dev setup --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build_packages=(
    gcc libc6-dev meson ninja-build pkg-config python3 git
    libnghttp2-dev libssl-dev librdkafka-dev libsqlite3-dev libzstd-dev libyaml-dev libjansson-dev
    libhiredis-dev libmicrohttpd-dev libcmocka-dev
)
test_packages=(
    clang clang-format clang-tidy shellcheck
    beanstalkd redis-server nghttp2-client kcat maven openssl python3-venv sqlite3 procps
    libnss-wrapper systemd nodejs mandoc tzdata make curl
)

say() {
    echo "setup: $*"
}

# Prints those of the named packages that are not installed.
missing() {
    local installed package
    # dpkg-query fails if it does not know one of them: that one is missing, too.
    installed=" $({ dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' "$@" 2>/dev/null || true; } |
        sed -n 's/^ii //p' | tr '\n' ' ') "
    for package in "$@"; do
        [[ $installed == *" $package "* ]] || echo "$package"
    done
}

# Kafka needs Java 17 or newer, from whatever package.
java_is_enough() {
    local version
    version=$(java -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p') || return 1
    [ "${version:-0}" -ge 17 ]
}

# clang without its run-time libraries cannot link sanitizers; their package names clang's version.
clang_rt_package() {
    local version
    version=$({ dpkg-query -W -f='${Depends}' clang 2>/dev/null || true; } | sed -n 's/.*clang-\([0-9]*\).*/\1/p')
    [ -n "$version" ] ||
        version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
    [ -z "$version" ] || echo "libclang-rt-$version-dev"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        say "cannot install without root or sudo; as root: apt-get install ${to_install[*]}" >&2
        exit 1
    fi
}

# Debian starts a server as soon as it is installed, unless policy-rc.d forbids it.
policy=/usr/sbin/policy-rc.d
policy_is_ours=
forbid_starts() {
    if [ ! -e "$policy" ]; then
        policy_is_ours=1
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
}
allow_starts() {
    [ -z "$policy_is_ours" ] || as_root rm -f "$policy"
    policy_is_ours=
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}

install() {
    say "installing ${to_install[*]}"
    trap allow_starts EXIT
    forbid_starts
    mkdir -p .cache
    apt install -y --no-install-recommends "${to_install[@]}" >.cache/setup.log 2>&1 || {
        tail -n 20 .cache/setup.log
        say "apt-get failed; the whole text is in .cache/setup.log" >&2
        exit 1
    }
    allow_starts
}

# Lists of packages are only fetched when something is missing, and once.
updated=
update_lists() {
    [ -z "$updated" ] || return 0
    say "apt-get update"
    mkdir -p .cache
    apt update >.cache/setup.log 2>&1 || {
        tail -n 20 .cache/setup.log
        say "apt-get update failed" >&2
        exit 1
    }
    updated=1
}

level=${1-test}
if ! command -v dpkg-query >/dev/null; then
    say "this is not a Debian machine: the packages that scripts/setup.sh names are taken for installed"
    exit 0
fi

packages=("${build_packages[@]}")
if [ "$level" = test ]; then
    packages+=("${test_packages[@]}")
    java_is_enough || packages+=(default-jre-headless)
fi
mapfile -t to_install < <(missing "${packages[@]}")
if [ ${#to_install[@]} -gt 0 ]; then
    update_lists
    install
fi

if [ "$level" = test ]; then
    mapfile -t to_install < <(missing "$(clang_rt_package)")
    if [ ${#to_install[@]} -gt 0 ]; then
        update_lists
        install
    fi
    python3 tests/integration/harness/cache.py all
fi
