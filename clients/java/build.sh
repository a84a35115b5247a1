#!/usr/bin/env bash
# Builds what the adapter of the conformance suite needs. Quick if nothing changed.
set -euo pipefail
cd "$(dirname "$0")"
built=target/adapter.jsa
if [[ -f $built ]] && [[ -z $(find src/main adapter examples pom.xml build.sh ../../proto -newer "$built" -print -quit) ]]; then
    exit 0
fi
# Maven compiles only the files that changed, so others would keep calling what is gone.
rm -rf target/test-classes target/classes/io/github/unibusrs/*.class
timeout 600 mvn -q -B test-compile 1>&2

# An archive of the classes that the adapter loads: a JVM starts in half the time with it.
jar --create --file target/adapter.jar -C target/classes . -C target/test-classes .
printf '%s\n' '{"id":1,"op":"connect","address":"http://127.0.0.1:9","total_ms":300}' \
    '{"id":2,"op":"subscribe","sub":"s","room":"r","subscriber":"d"}' '{"id":3,"op":"publish","room":"r","payload":""}' |
    timeout 60 java -XX:ArchiveClassesAtExit="$PWD/$built" -XX:+UseSerialGC -cp "$PWD/target/adapter.jar:$(cat target/classpath)" \
        Adapter >/dev/null 2>target/adapter.jsa.log || true
touch "$built"
