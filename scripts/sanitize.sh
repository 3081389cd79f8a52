#!/usr/bin/env bash
# Builds the native module with a sanitizer of the compiler and runs its tests on it:
#   scripts/sanitize.sh [address | undefined | all, by default all] [pytest arguments, by default tests/native tests/render]
# Needs a C++ compiler with libasan and libubsan (Debian: g++), cmake and ninja or make. It builds and copies under
# build/sanitize-*; the installed module stays as it is. CUDA kernels are left out. Ends with 1 where a report was made.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
kinds=${1:-all}
shift || true
[ $# -gt 0 ] || set -- tests/native tests/render
case $kinds in
  all) kinds='address undefined' ;;
  address | undefined) ;;
  *) echo "scene4d: sanitize.sh: $kinds is no sanitizer; one of: address undefined all" >&2; exit 2 ;;
esac
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
python=$(cd "$(dirname "$(command -v "$python")")" && pwd)/$(basename "$python")
compiler=${CXX:-c++}
tools=build/sanitize-tools
[ -d "$tools/nanobind" ] || "$python" -m pip install --quiet --disable-pip-version-check --target "$tools" 'nanobind>=2.4'
command -v cmake >/dev/null || "$python" -m pip install --quiet --disable-pip-version-check --target "$tools" cmake
PYTHONPATH=$root/$tools
export PYTHONPATH PATH=$root/$tools/bin:$PATH
failed=0
for kind in $kinds; do
  build=build/sanitize-$kind
  echo "scene4d: $kind: building" >&2
  # Alignment is left out: nanobind reads what lies at odd addresses on purpose. A report of undefined behaviour ends the run.
  flags="-fsanitize=$kind -fno-omit-frame-pointer -g1"
  [ "$kind" = address ] || flags="$flags -fno-sanitize=alignment,vptr -fno-sanitize-recover=all"
  cmake -S cuda_ext -B "$build" -DCMAKE_BUILD_TYPE=Release -DS4D_CUDA=OFF -DCMAKE_CXX_FLAGS="$flags" \
    -DCMAKE_CXX_COMPILER="$compiler" -DPython_EXECUTABLE="$python" \
    -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" >"$build.log" 2>&1
  cmake --build "$build" --parallel "${JOBS:-2}" >>"$build.log" 2>&1
  # A tree of its own: Python takes the module that lies in the package.
  rm -rf "$build/tree"
  mkdir -p "$build/tree"
  cp -r scene4d tests configs pyproject.toml cuda_ext scripts docs README.md "$build/tree"
  rm -f "$build"/tree/scene4d/native/_ext*.so
  cp "$build"/_ext*.so "$build/tree/scene4d/native/"
  library=$("$compiler" -print-file-name="lib$([ "$kind" = address ] && echo asan || echo ubsan).so")
  echo "scene4d: $kind: testing" >&2
  # Python keeps memory until it ends, so leaks are not looked for. Little of what was freed is kept: tests of memory count it.
  # The C++ runtime is loaded first too: else the library does not see exceptions that a module throws.
  (
    cd "$build/tree"
    LD_PRELOAD="$library $("$compiler" -print-file-name=libstdc++.so.6)" PYTHONPATH='' PYTHONMALLOC=malloc \
      ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:detect_odr_violation=0:quarantine_size_mb=8 \
      UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 OMP_WAIT_POLICY=passive \
      "$python" -m pytest -q -p no:cacheprovider --timeout 3000 "$@"
  ) || { failed=1; echo "scene4d: $kind: failed" >&2; }
done
exit $failed
