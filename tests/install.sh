#!/bin/sh
# Installs what the tests need: a PostgreSQL server (not started), a Python environment in .cache/venv, the JavaScript SDK
# in tests/js/node_modules, packages with native code and AWS's client for images in .cache/native, web frameworks in
# .cache/web, an agent in .cache/agents, Chromium, a JDK with Maven and jars in .cache/java and .cache/spring, Ruby, PHP, and what a .NET
# program is made of in .cache/dotnet.
# Does nothing where it has run before and neither requirements.txt nor package-lock.json changed.
set -eu
cd "$(dirname "$0")/.."

if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ! command -v initdb >/dev/null; then
    if ! command -v apt-get >/dev/null; then
        echo "PostgreSQL is not there: please install its server, with initdb on the PATH" >&2
        exit 1
    fi
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    # Tests start servers of their own; the distribution's cluster is neither made nor started.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        $sudo mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq postgresql >/dev/null
fi

venv=.cache/venv
mark=$venv/.installed
if ! cmp -s tests/requirements.txt "$mark"; then
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
    cp tests/requirements.txt "$mark"
fi

if ! command -v npm >/dev/null; then
    echo "npm is not there: the tests of the JavaScript SDK and of Node.js functions need Node.js" >&2
    exit 1
fi
mark=tests/js/node_modules/.installed
if ! cmp -s tests/js/package-lock.json "$mark"; then
    (cd tests/js && npm ci --no-audit --no-fund --loglevel=error)
    cp tests/js/package-lock.json "$mark"
fi

# Native code that functions bring: wheels, a Node.js addon, a static ffmpeg. What a registry lacks is skipped by its test.
native=.cache/native
if [ ! -e "$native/.python" ]; then
    rm -rf "$native/python"
    if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --target "$native/python" Pillow numpy; then
        touch "$native/.python"
    else
        echo "Pillow and numpy could not be installed: the tests of native wheels are skipped" >&2
    fi
fi
if [ ! -e "$native/.client" ]; then
    rm -rf "$native/awslambdaric"
    if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --target "$native/awslambdaric" "awslambdaric>=4,<5"; then
        touch "$native/.client"
    else
        echo "AWS's runtime client for images could not be installed: no image of Python is tested" >&2
    fi
fi
if [ ! -e "$native/.node" ]; then
    mkdir -p "$native/node"
    echo '{"private": true}' > "$native/node/package.json"
    for package in sharp@0.34 @ffmpeg-installer/ffmpeg@1.1; do
        if (cd "$native/node" && npm install --no-audit --no-fund --loglevel=error "$package"); then
            touch "$native/.node"
        else
            echo "$package could not be installed: its test is skipped" >&2
        fi
    done
fi

# A browser, for the attacks that only a real one shows.
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    if ! command -v apt-get >/dev/null || ! { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        $sudo apt-get install -y -qq --no-install-recommends chromium >/dev/null; }; then
        echo "Chromium could not be installed: the attacks in a real browser are skipped" >&2
    fi
fi

# Components written in Rust.
if command -v rustup >/dev/null && ! rustup target list --installed | grep -q wasm32-wasip2 && ! rustup target add wasm32-wasip2; then
    echo "Rust's wasm32-wasip2 could not be installed: the tests of components in Rust are skipped" >&2
fi

# Frameworks of web servers that run as functions.
web=.cache/web
if [ ! -e "$web/.python" ]; then
    rm -rf "$web/python"
    if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --target "$web/python" --python-version 3.11 \
        --only-binary=:all: fastapi uvicorn websockets; then
        touch "$web/.python"
    else
        echo "FastAPI could not be installed: its test is skipped" >&2
    fi
fi
if [ ! -e "$web/.node" ]; then
    mkdir -p "$web/node"
    echo '{"private": true}' > "$web/node/package.json"
    if (cd "$web/node" && npm install --no-audit --no-fund --loglevel=error express@5 ws@8); then
        touch "$web/.node"
    else
        echo "express could not be installed: its test is skipped" >&2
    fi
fi

# Interpreters of functions.
for pair in ruby:ruby php:php-cli mcs:mono-mcs; do
    if ! command -v "${pair%:*}" >/dev/null; then
        sudo=""
        [ "$(id -u)" = 0 ] || sudo=sudo
        if ! command -v apt-get >/dev/null || ! { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            $sudo apt-get install -y -qq --no-install-recommends "${pair#*:}" >/dev/null; }; then
            echo "${pair#*:} could not be installed: its tests are skipped" >&2
        fi
    fi
done
# A whole runtime of .NET, which a package for Python brings.
dotnet=.cache/dotnet
if [ ! -e "$dotnet/.installed" ]; then
    rm -rf "$dotnet"
    if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$dotnet" dotnetcore2==3.1.23; then
        touch "$dotnet/.installed"
    else
        echo "the runtime of .NET could not be installed: its test is skipped" >&2
    fi
fi

# Agents that run beside functions.
agents=.cache/agents
if [ ! -e "$agents/sentry.tgz" ]; then
    mkdir -p "$agents"
    if (cd "$agents" && npm pack --silent @sentry/aws-serverless@10 >/dev/null && mv sentry-aws-serverless-*.tgz sentry.tgz); then
        :
    else
        echo "the extension of Sentry could not be had: its test is skipped" >&2
    fi
fi

# A JDK with Maven, and what Java functions are compiled with.
if ! command -v javac >/dev/null || ! command -v mvn >/dev/null; then
    if command -v apt-get >/dev/null; then
        sudo=""
        [ "$(id -u)" = 0 ] || sudo=sudo
        $sudo apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq default-jdk-headless maven >/dev/null
    else
        echo "javac and mvn are not there: the tests of Java functions are skipped" >&2
    fi
fi
# jars POM FOLDER TESTS: what a POM names, in FOLDER/lib.
jars() {
    if command -v mvn >/dev/null && ! cmp -s "$1" "$2/.installed"; then
        rm -rf "$2"
        mkdir -p "$2"
        if mvn -q -B -f "$1" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$PWD/$2/lib" >&2; then
            cp "$1" "$2/.installed"
        else
            rm -rf "$2"
            echo "the jars of $1 could not be installed: the tests of $3 are skipped" >&2
        fi
    fi
}
jars tests/java/pom.xml .cache/java "Java functions"
jars tests/java/spring.xml .cache/spring "Spring"
