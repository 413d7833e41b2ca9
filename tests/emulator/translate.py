#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""translate.py FILE.cu OUT.cpp: the few things of CUDA C++ that are no C++, as calls of emulator.h."""
import re
import sys


def end_of(text: str, at: int) -> int:
    """Behind the bracket that closes the one at text[at]."""
    depth = 0
    for k in range(at, len(text)):
        depth += text[k] in "([{"
        depth -= text[k] in ")]}"
        if depth == 0:
            return k + 1
    raise SystemExit("translate.py: a bracket is not closed")


def split(arguments: str) -> list[str]:
    """At commas that are in no brackets; template arguments count as brackets after a name."""
    parts, depth, begin = [], 0, 0
    for k, c in enumerate(arguments):
        depth += c in "([{"
        depth -= c in ")]}"
        if c == "," and depth == 0:
            parts.append(arguments[begin:k])
            begin = k + 1
    return [*parts, arguments[begin:]]


def launches(text: str) -> str:
    """kernel<<<grid, block, bytes, stream>>>(a, b) → launch(grid, block, bytes, stream, kernel, a, b)"""
    name = re.compile(r"([A-Za-z_][\w:]*(?:<[^<>;]*>)?)\s*<<<")
    while match := name.search(text):
        close = text.index(">>>", match.end())
        configuration = split(text[match.end():close])
        configuration += ["0", "NULL"][len(configuration) - 2:]
        open_at = text.index("(", close)
        end = end_of(text, open_at)
        kernel = f"[](auto... a) {{ {match.group(1)}(a...); }}"  # finds template arguments
        call = ", ".join([f"dim3({configuration[0]})", f"dim3({configuration[1]})",
                          *configuration[2:], kernel])
        arguments = text[open_at + 1:end - 1]
        text = (text[:match.start()] + f"tm_emulator::launch({call}, {arguments})" + text[end:])
    return text


def main() -> None:
    source, out = sys.argv[1:]
    text = launches(open(source, encoding="utf-8").read())
    text = re.sub(r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];",
                  r"\1 *\2 = (\1 *)tm_emulator::dynamic_shared();", text)
    text = re.sub(r"cudaLaunchCooperativeKernel\(\(const void \*\)",
                  "tm_emulator_launch_cooperative(", text)
    text = text.replace("#pragma unroll", "// unroll")
    with open(out, "w", encoding="utf-8") as file:
        file.write(f'#line 1 "{source}"\n{text}')


main()
