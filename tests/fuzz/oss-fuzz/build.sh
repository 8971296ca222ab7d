#!/bin/bash -eu
# What OSS-Fuzz runs in its image: it sets CC, CFLAGS (with coverage and a sanitizer), SRC, and OUT.
cd "$SRC/wsproto-fast"
pip3 install "setuptools>=77" "Cython>=3.3"
pip3 install --no-build-isolation ".[fuzz]"

for path in tests/fuzz/targets/*.py; do
  name=$(basename "$path" .py)
  fuzzer="fuzz_$name.py"
  printf 'import sys\n\nfrom tests.fuzz.run import main\n\nmain("%s", sys.argv[1:])\n' "$name" > "$fuzzer"
  compile_python_fuzzer "$fuzzer" --paths . --hidden-import "tests.fuzz.targets.$name" \
    --collect-submodules wsproto_fast --collect-submodules wsapi
  python3 -c "from tests.fuzz import corpora; corpora.pack_seeds('$name', '$OUT/fuzz_${name}_seed_corpus.zip')"
  [ ! -f "tests/fuzz/dictionaries/$name.dict" ] || cp "tests/fuzz/dictionaries/$name.dict" "$OUT/fuzz_$name.dict"
done
