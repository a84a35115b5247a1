#!/usr/bin/env bash
# Checks the Java client: format, generated code, lints, unit tests, javadoc, adapter, examples. For CI, on a machine that has
# JDK 17 and Maven 3.8 or newer; everything else comes from Maven Central.
#
# The stubs are not checked in: each build generates them from proto/, so they cannot differ from it.
set -euo pipefail
cd "$(dirname "$0")"

format=1.28.0
step() { printf '\n== %s\n' "$*"; }

step "google-java-format $format"
jar=target/tools/google-java-format-$format-all-deps.jar
if [[ ! -f $jar ]]; then
    timeout 300 mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy \
        -Dartifact=com.google.googlejavaformat:google-java-format:$format:jar:all-deps -DoutputDirectory=target/tools
fi
exports=()
for package in api code file parser tree util; do
    exports+=(--add-exports "jdk.compiler/com.sun.tools.javac.$package=ALL-UNNAMED")
done
find src examples adapter -name '*.java' -print0 |
    xargs -0 java "${exports[@]}" -jar "$jar" --dry-run --set-exit-if-changed

step "stubs, lints as errors, unit tests, adapter, examples (Java and Kotlin), jars, javadoc without warnings"
timeout 900 mvn -B -ntp -Pkotlin package | grep -vE '^\[INFO\] *$|^\[INFO\] -+|Copying|Nothing to|skip'

step "google.rpc comes from one place"
if unzip -l target/unibus-client-*.jar | grep -q 'com/google/rpc'; then
    echo "the jar has classes of google.rpc, which proto-google-common-protos has too" >&2
    exit 1
fi
unzip -l target/unibus-client-0.1.0.jar | grep -c 'io/github/unibusrs/v1/.*class'

step "the adapter answers"
./build.sh
printf '{"id":1,"op":"hello"}\n' | timeout 60 ../../conformance/adapters/java | grep '"language":"java"'
