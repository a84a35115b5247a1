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
# Maven compiles only the files that changed, so others would keep calling what is gone.
rm -rf target/test-classes target/classes/io/github/unibusrs/*.class
timeout 900 mvn -B -ntp -Pkotlin package | grep -vE '^\[INFO\] *$|^\[INFO\] -+|Copying|Nothing to|skip'

step "buf generates the same classes as Maven"
repository=${MAVEN_REPOSITORY:-$HOME/.m2/repository}
ln -sf "$(echo "$repository"/com/google/protobuf/protoc/*/protoc-3.25.9-linux-*.exe)" target/tools/protoc
ln -sf "$(echo "$repository"/io/grpc/protoc-gen-grpc-java/1.83.1/*-linux-*.exe)" target/tools/protoc-gen-grpc-java
chmod +x "$(readlink target/tools/protoc)" "$(readlink target/tools/protoc-gen-grpc-java)"
buf=${BUF:-$PWD/../../target/ci/node_modules/.bin/buf}
if [[ ! -x $buf ]]; then
    timeout 300 npm install --no-save --silent --no-audit --no-fund --prefix ../../target/ci @bufbuild/buf@1.75.0
fi
rm -rf target/buf
PATH=$PWD/target/tools:$PATH timeout 60 "$buf" generate
diff <(cd target/buf && find . -name '*.java' | sort) <(cd target/generated-sources/protobuf && find . -name '*.java' | sort)

step "google.rpc comes from one place"
if unzip -l target/unibus-client-*.jar | grep -q 'com/google/rpc'; then
    echo "the jar has classes of google.rpc, which proto-google-common-protos has too" >&2
    exit 1
fi
unzip -l target/unibus-client-0.1.0.jar | grep -c 'io/github/unibusrs/v1/.*class'

step "the adapter answers"
./build.sh
printf '{"id":1,"op":"hello"}\n' | timeout 60 ../../conformance/adapters/java | grep '"language":"java"'
