#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes src/rpc/reflection_data.c: what the reflection service tells about the files of proto/.

    scripts/reflection_data.py            writes the file; run it after a change of proto/
    scripts/reflection_data.py --print    prints it instead (a test compares)

Needs grpcio-tools; without it, it takes the environment of the integration tests.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src/rpc/reflection_data.c"

try:
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc
except ImportError:
    cache = ROOT / "tests/integration/harness/cache.py"
    python = subprocess.run([sys.executable, cache, "venv", "tests"], check=True, text=True,
                            stdout=subprocess.PIPE).stdout.strip()
    os.execv(python, [python, __file__, *sys.argv[1:]])


def compiled():
    """The files of proto/ and what they import, each after its imports."""
    sources = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    include = Path(protoc.__file__).parent / "_proto"
    with tempfile.NamedTemporaryFile() as out:
        code = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", "--include_imports",
                            f"--descriptor_set_out={out.name}", *sources])
        assert code == 0, "protoc failed"
        return descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes()).file


def symbols(file):
    """Full names of all that a file declares."""
    def enum(scope, it):
        yield f"{scope}.{it.name}"
        yield from (f"{scope}.{value.name}" for value in it.value)  # beside their enum, by the rules

    def message(scope, it):
        name = f"{scope}.{it.name}"
        yield name
        yield from (f"{name}.{field.name}" for field in it.field)
        yield from (f"{name}.{oneof.name}" for oneof in it.oneof_decl
                    if not oneof.name.startswith("_"))  # those of `optional` are protoc's own
        for nested in it.nested_type:
            yield from message(name, nested)
        for nested in it.enum_type:
            yield from enum(name, nested)

    for it in file.message_type:
        yield from message(file.package, it)
    for it in file.enum_type:
        yield from enum(file.package, it)
    for it in file.service:
        yield f"{file.package}.{it.name}"
        yield from (f"{file.package}.{it.name}.{method.name}" for method in it.method)


def imports(files, index):
    """Indices of all files that a file needs, directly or not, in order."""
    names = [file.name for file in files]
    found = set()

    def add(i):
        for name in files[i].dependency:
            if names.index(name) not in found:
                found.add(names.index(name))
                add(names.index(name))

    add(index)
    return sorted(found)


def byte_lines(data):
    return [", ".join(f"{byte:d}" for byte in data[i:i + 19]) + "," for i in range(0, len(data), 19)]


def text(files):
    lines = ["/* SPDX-License-Identifier: Apache-2.0 */",
             "/* Made by scripts/reflection_data.py from proto/; not edited by hand. */",
             '#include "rpc/reflection.h"', "", "/* clang-format off */"]
    for i, file in enumerate(files):
        lines += ["", f"static const uint8_t file_{i}[] = {{"]
        lines += [f"    {line}" for line in byte_lines(file.SerializeToString(deterministic=True))]
        lines += ["};"]
        if needs := imports(files, i):
            lines += [f"static const uint8_t imports_{i}[] = {{{', '.join(map(str, needs))}}};"]
    lines += ["", "const struct reflection_file reflection_files[] = {"]
    for i, file in enumerate(files):
        needs = len(imports(files, i))
        lines += [f'    {{"{file.name}", {{file_{i}, sizeof file_{i}}}, '
                  f'{f"imports_{i}" if needs else "NULL"}, {needs}}},']
    lines += ["};", f"const size_t reflection_file_count = {len(files)};", ""]
    names = sorted((name.encode(), i) for i, file in enumerate(files) for name in symbols(file))
    assert len({name for name, _ in names}) == len(names)
    lines += ["const struct reflection_symbol reflection_symbols[] = {"]
    lines += [f'    {{"{name.decode()}", {i}}},' for name, i in names]
    lines += ["};", f"const size_t reflection_symbol_count = {len(names)};"]
    return "\n".join(lines) + "\n"


def main():
    made = text(compiled())
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(made)
    elif sys.argv[1:]:
        sys.exit(__doc__.strip())
    else:
        TARGET.write_text(made)


if __name__ == "__main__":
    main()
