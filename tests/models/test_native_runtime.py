"""The native runtime with the examples in C and C++, and with libraries that break the interface."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import InvalidInput, ModelCrashed
from penstock.failures import CallFailed
from penstock.models import manifest
from penstock.models.replica.native_interface import place, pointer
from penstock.models.replica.runtime import Call, Cancelled, Output, Schema, Segment, Spec
from penstock.models.replica.runtimes.native import HEADER, NativeRuntime
from tests.support.models import Models
from tests.support.runtimes import CollectingWire, call_with, read

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "native-models.md"
EXAMPLES = ROOT / "examples" / "models"
LIMIT = 60.0  # seconds that nothing here may take

# The source of a library; a test supplies the body of predict, and may replace the other marked parts.
LIBRARY = r"""
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include "penstock.h"
int penstock_abi(void) { return @ABI@; }
int penstock_create(const char *config, size_t size, void **model, penstock_error *error) {
    (void)config; (void)size; (void)model; (void)error;
    @CREATE@
    return PENSTOCK_OK;
}
static int freed = 0;
static void say(penstock_result *result, const char *json) {
    result->json.data = json;
    result->json.size = strlen(json);
}
static void blame(penstock_error *error, const char *message, const char *field) {
    error->message_size = strlen(message);
    memcpy(error->message, message, error->message_size);
    error->field_size = strlen(field);
    memcpy(error->field, field, error->field_size);
}
int penstock_predict(void *model, const penstock_request *request, const penstock_callbacks *callbacks,
                     penstock_result *result, penstock_error *error) {
    (void)model; (void)request; (void)callbacks; (void)result; (void)error; (void)say; (void)blame;
    @PREDICT@
    return PENSTOCK_OK;
}
void penstock_free_result(void *model, penstock_result *result) { (void)model; free(result->owner); freed++; }
void penstock_destroy(void *model) { (void)model; }
"""

Make = Callable[..., NativeRuntime]


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a loaded runtime from the body of predict, in C."""
    made: list[NativeRuntime] = []

    def make(
        predict: str, *, create: str = "", abi: str = "PENSTOCK_ABI", schema: Schema | None = None, config: Any = None
    ) -> NativeRuntime:
        folder = tmp_path / str(len(made))  # a library stays loaded: the next one needs a path of its own
        folder.mkdir()
        compiled(folder, LIBRARY.replace("@PREDICT@", predict).replace("@CREATE@", create).replace("@ABI@", abi))
        found = runtime(folder, schema or Schema(), library="lib.so", config=config or {})
        made.append(found)
        found.load()
        return found

    yield make
    for one in made:
        one.unload()


def compiled(folder: Path, source: str) -> None:
    (folder / "lib.c").write_text(source)
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Werror", f"-I{HEADER.parent}", "-fPIC", "-shared", "-o", "lib.so", "lib.c"],
        cwd=folder,
        check=True,
        timeout=LIMIT,
    )


def runtime(folder: Path, schema: Schema, **options: Any) -> NativeRuntime:
    return NativeRuntime(Spec(name="m", version="1", folder=folder, options=options, schema=schema))


def ask(found: NativeRuntime, value: Any, *segments: Segment, wire: CollectingWire | None = None) -> Output | None:
    return found.predict(call_with(wire or CollectingWire(), value, *segments))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native examples, compiled by their own Makefiles."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("edges-c", "tones-cpp"):
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("*.so"))
        strict = [
            f"PENSTOCK_INCLUDE={HEADER.parent}",
            "CFLAGS=-O2 -Wall -Wextra -Werror",
            "CXXFLAGS=-O2 -Wall -Wextra -Werror",
        ]
        subprocess.run(["make", "-s", "-C", str(folder / name), *strict], check=True, timeout=LIMIT)
    return folder


def example(folder: Path) -> NativeRuntime:
    stated = manifest.read(folder / manifest.FILE_NAME)
    found = runtime(stated.folder, stated.schema, **stated.manifest.options)
    found.load()
    return found


@pytest.fixture
def edges(examples: Path) -> Iterator[NativeRuntime]:
    found = example(examples / "edges-c")
    yield found
    found.unload()


@pytest.fixture
def tones(examples: Path) -> Iterator[NativeRuntime]:
    found = example(examples / "tones-cpp")
    yield found
    found.unload()


# The C example

Pixels = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


def pgm(pixels: Pixels) -> bytes:
    return b"P5\n# a comment\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def sobel(pixels: Pixels) -> Any:
    """Apply the same operator, written differently."""
    wide = np.pad(pixels.astype(np.int64), 1, mode="edge")
    smooth = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    across = smooth[:, 2:] - smooth[:, :-2]
    smooth = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    down = smooth[2:] - smooth[:-2]
    return np.minimum(255, np.sqrt(across**2 + down**2)).astype(np.uint8)


def random_picture(height: int, width: int, *, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def check_edges(output: Output | None, pixels: Pixels) -> None:
    expected = sobel(pixels)
    facts = read(output)
    assert output is not None
    assert facts == {
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "mean": pytest.approx(float(expected.mean()), abs=1e-5),
        "strongest": int(expected.max()),
        "edges": None,
    }
    (segment,) = output.segments
    assert (segment.path, segment.media_type, segment.name) == (("edges",), "image/x-portable-graymap", None)
    head = b"P5\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0])
    assert bytes(segment.in_memory()) == head + expected.tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (40, 31)])
def test_the_c_example_finds_edges(edges: NativeRuntime, shape: tuple[int, int]) -> None:
    pixels = random_picture(*shape)
    pixels[: shape[0] // 2] //= 16
    check_edges(ask(edges, {"image": None}, Segment(pgm(pixels), "image/x-portable-graymap", ("image",))), pixels)


def test_media_that_came_as_a_data_url_are_a_part_as_well(edges: NativeRuntime) -> None:
    pixels = random_picture(5, 4)
    url = "data:image/x-portable-graymap;base64," + base64.b64encode(pgm(pixels)).decode()
    check_edges(ask(edges, {"image": url}), pixels)
    with pytest.raises(CallFailed, match="base64") as refused:
        ask(edges, {"image": "data:image/png;base64,a"})
    assert (refused.value.category, refused.value.field) == ("bad_input", "image")


@pytest.mark.parametrize(("name", "strongest"), [("edges-c", 255), ("tones-cpp", None)])
def test_the_examples_in_the_manifests_work(examples: Path, name: str, strongest: int | None) -> None:
    shown = manifest.read(examples / name / manifest.FILE_NAME).manifest.examples
    assert shown
    found = example(examples / name)
    for value in shown:
        wire = CollectingWire()
        output = ask(found, value, wire=wire)
        if strongest is None:
            assert len(wire.chunks) == len(value["notes"])
        else:
            assert read(output)["strongest"] == strongest
    found.unload()


def test_ten_megabytes_pass_in_both_directions(edges: NativeRuntime, tmp_path: Path) -> None:
    pixels = random_picture(2500, 4000)
    segment = Segment(memoryview(pgm(pixels)), "image/x-test", ("image",))
    check_edges(ask(edges, {"image": None}, segment, wire=CollectingWire(tmp_path)), pixels)


def test_calls_run_in_several_threads_at_a_time(edges: NativeRuntime) -> None:
    pictures = [random_picture(60, 50 + seed, seed=seed) for seed in range(40)]

    def one(pixels: Pixels) -> None:
        check_edges(ask(edges, {"image": None}, Segment(pgm(pixels), "image/x-test", ("image",))), pixels)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(one, pixels) for pixels in pictures]:
            done.result(LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P",
        b"P5",
        b"P6 1 1 255 x",
        b"P5 2 2 255\nabc",
        b"P5 99999999 99999999 255\n",
        b"P5 1 1 65535\nab",
        b"P5 1 1 255",
    ],
)
def test_the_c_example_refuses_other_bytes_than_pgm(edges: NativeRuntime, data: bytes) -> None:
    with pytest.raises(CallFailed, match="must be a binary PGM") as refused:
        ask(edges, {"image": None}, Segment(data, "image/png", ("image",)))
    assert (refused.value.category, refused.value.field) == ("bad_input", "image")
    check_edges(ask(edges, {"image": None}, Segment(b"P5 1 1 255\n7", "image/png", ("image",))), np.array([[55]], "u1"))


def test_a_call_that_is_cancelled_ends_between_two_rows(edges: NativeRuntime) -> None:
    call = call_with(CollectingWire(), {"image": None}, Segment(pgm(random_picture(9, 9)), "image/png", ("image",)))
    call.cancel()
    with pytest.raises(Cancelled):
        edges.predict(call)


def test_a_model_that_cannot_be_created_reports_why(examples: Path) -> None:
    with pytest.raises(CallFailed, match="largest_pixels must be a number of at least 1") as failed:
        runtime(examples / "edges-c", Schema(), library="libedges.so", config={"largest_pixels": "many"}).load()
    assert failed.value.category == "unavailable"


# The C++ example


def test_the_cpp_example_streams_a_sound_for_each_note(tones: NativeRuntime) -> None:
    wire = CollectingWire()
    assert ask(tones, {"notes": ["A4", "A5", "C#5", "B3"], "seconds": 0.25}, wire=wire) is None
    assert [(one["note"], one["sound"]) for one in wire.values] == [(note, None) for note in ("A4", "A5", "C#5", "B3")]
    assert [one["frequency"] for one in wire.values] == pytest.approx([440, 880, 554.365, 246.942], abs=1e-3)
    assert wire.progressed == [{"fraction": share} for share in (0.25, 0.5, 0.75, 1.0)]
    for chunk in wire.chunks:
        (segment,) = chunk.segments
        assert (segment.path, segment.media_type) == (("sound",), "audio/wav")
        assert loudest_frequency(bytes(segment.in_memory())) == pytest.approx(read(chunk)["frequency"], abs=4)


def loudest_frequency(data: bytes) -> float:
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (16000, 4000, 1)
        samples = np.frombuffer(file.readframes(4000), "<i2")
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * 16000 / 4000


def test_the_cpp_example_names_the_wrong_field(tones: NativeRuntime) -> None:
    wire = CollectingWire()
    with pytest.raises(CallFailed, match="must be a note such as A4") as refused:
        ask(tones, {"notes": ["A4", "H4"], "seconds": 0.01}, wire=wire)
    assert (refused.value.category, refused.value.field) == ("bad_input", "notes[1]")
    assert len(wire.chunks) == 1


def test_a_stream_ends_with_its_caller(tones: NativeRuntime) -> None:
    class Leaving(CollectingWire):
        def chunk(self, call: Call, output: Output) -> None:
            super().chunk(call, output)
            if len(self.chunks) == 3:
                call.cancel()

    wire = Leaving()
    with pytest.raises(Cancelled):
        ask(tones, {"notes": ["A4"] * 1000, "seconds": 0.01}, wire=wire)
    assert len(wire.chunks) == 3


def test_a_stream_waits_for_a_caller_that_reads_slowly_and_python_runs_meanwhile(tones: NativeRuntime) -> None:
    came = threading.Semaphore(0)

    class Slow(CollectingWire):
        def chunk(self, call: Call, output: Output) -> None:
            super().chunk(call, output)
            came.release()

    wire = Slow()
    call = call_with(wire, {"notes": ["A4"] * 5, "seconds": 0.01}, streams=True, window=1)  # full after one chunk
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(tones.predict, call)
        for index in range(5):
            assert came.acquire(timeout=LIMIT)
            assert len(wire.chunks) == index + 1
            call.grant(wire.chunks[index].size)
        assert ended.result(LIMIT) is None


# What a library may return


def test_a_library_sees_the_whole_request_and_its_output_is_copied_before_it_is_freed(library: Make) -> None:
    found = library(r"""
        char *text = calloc(1, 1000);
        const penstock_part *part = request->parts + 1;
        sprintf(text, "[%d,%d,\"%s\",\"%s\",\"%s\",\"%s\",%d,%d,%s,%d]", (int)request->count, request->streams,
                request->request_id.data, part->path.data, part->media_type.data, part->name.data, (int)part->size,
                ((const unsigned char *)part->data)[1], request->input.data, freed);
        result->owner = text;
        say(result, text);
    """)
    segments = Segment(b"", "a/b", ("x",)), Segment(b"\0\xff\0", "image/ä", ("y", 1, "/~"), "n.txt")
    for freed in range(3):
        value = {"x": None, "y": [0, {"/~": None}]}
        output = found.predict(call_with(CollectingWire(), value, *segments, streams=True))
        assert read(output) == [2, 1, "request-1", "/y/1/~1~0", "image/ä", "n.txt", 3, 255, value, freed]


def test_an_output_may_be_one_piece_of_media(library: Make) -> None:
    found = library(r"""
        static const penstock_part part = {{0, 0}, {0, 0}, PENSTOCK_TEXT("a.bin"), "\0\1", 2};
        say(result, "null");
        result->parts = &part;
        result->count = 1;
    """)
    output = ask(found, 1)
    assert output is not None
    assert output.segments == [Segment(b"\0\1", "application/octet-stream", (), "a.bin")]


def test_the_config_reaches_the_library_as_json(library: Make) -> None:
    found = library(
        "say(result, model);", create="char *kept = malloc(size + 1); strcpy(kept, config); *model = kept;",
        config={"name": "ä", "list": [1, {"x": 0.5}]},
    )  # fmt: skip
    assert read(ask(found, 0)) == {"name": "ä", "list": [1, {"x": 0.5}]}


def test_log_lines_and_progress_come_with_their_call(library: Make) -> None:
    found = library(r"""
        callbacks->log(callbacks->context, PENSTOCK_WARNING, "h\xc3\xa4, not this", 4);
        callbacks->log(callbacks->context, 99, "\xff", 1);
        callbacks->log(callbacks->context, -1, NULL, 0);
        callbacks->progress(callbacks->context, "[1]", 3);
        say(result, "2");
    """)
    wire = CollectingWire()
    assert read(ask(found, 0, wire=wire)) == 2
    assert wire.lines == [("warning", "hä,"), ("error", "\ufffd"), ("debug", "")]
    assert wire.progressed == [[1]]


def test_an_output_after_chunks_is_the_last_chunk(library: Make) -> None:
    found = library('callbacks->chunk(callbacks->context, "1", 1, NULL, 0); say(result, "2");')
    wire = CollectingWire()
    assert ask(found, 0, wire=wire) is None
    assert wire.values == [1, 2]


def test_only_a_model_that_streams_may_return_no_output(library: Make) -> None:
    with pytest.raises(CallFailed, match="neither an output nor chunks"):
        ask(library(""), 0)
    assert ask(library("", schema=Schema(streams=True)), 0) is None


@pytest.mark.parametrize(
    ("predict", "kind", "message", "field"),
    [
        ('blame(error, "too dark", ""); return PENSTOCK_FAILED;', "internal", "too dark", None),
        ('blame(error, "too dark", "image"); return PENSTOCK_BAD_INPUT;', "bad_input", "too dark", "image"),
        ("return PENSTOCK_BAD_INPUT;", "bad_input", "the library refuses the input and gives no reason", None),
        ("return -7;", "internal", "penstock_predict returned -7 and no reason", None),
        (
            "return PENSTOCK_CANCELLED;", "internal",
            "the library reported a cancel, but the caller has not left", None,
        ),
        (
            "memset(error->message, 'x', 1024); error->message_size = (size_t)-1; return PENSTOCK_FAILED;", "internal",
            "x" * 1024, None,
        ),
    ],
)  # fmt: skip
def test_an_error_reaches_the_caller_with_its_kind(
    library: Make, predict: str, kind: str, message: str, field: str | None
) -> None:
    found = library(predict)
    with pytest.raises(CallFailed) as failed:
        ask(found, 0)
    assert (failed.value.category, failed.value.message, failed.value.field) == (kind, message, field)


def printed(form: str, number: str) -> str:
    """Return a body of predict that prints a number as C does."""
    return f'static char text[40]; snprintf(text, 40, "{form}", {number}); say(result, text);'


PART = "static penstock_part part; part = (penstock_part){{0}}; result->parts = &part; result->count = 1; "


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        ("result->json.size = 5;", "json that is null, but its size is 5"),
        ('say(result, "{1}");', "what is not JSON"),
        (printed("[1, %g]", '-strtod("inf", NULL)'), "NaN or an infinity"),
        (printed("%g", 'strtod("nan", NULL)'), "NaN or an infinity"),
        ('say(result, "{\\"score\\": NaN}");', "NaN or an infinity"),
        ('say(result, "\\"\\xff\\"");', "what is not JSON"),
        ('result->json.data = ""; result->json.size = (size_t)-1;', "536870912 are allowed"),
        ('say(result, "1"); result->count = 1;', "parts are null, but their count is 1"),
        (PART, "what is not JSON"),
        ('say(result, "{\\"score\\": [1e999]}");', r"a number out of range at score\[0\]"),
        (PART + 'say(result, "1e999");', "a number out of range"),
        (PART + 'say(result, "null"); part.size = 3;', r"parts\[0\].data that is null, but its size is 3"),
        (PART + 'say(result, "null"); part.path.data = "x"; part.path.size = 1;', "must be a JSON pointer"),
        (PART + 'say(result, "null"); part.path.data = "/\\xff"; part.path.size = 2;', "not UTF-8"),
        (PART + 'say(result, "[null]"); part.path.data = "/-1"; part.path.size = 3;', "leads nowhere"),
        (PART + 'say(result, "{}"); part.path.data = "/a"; part.path.size = 2;', "leads nowhere"),
        (PART + 'say(result, "[1]"); part.path.data = "/0"; part.path.size = 2;', "must hold null"),
        ('callbacks->chunk(callbacks->context, "x", 1, NULL, 0); say(result, "1");', "what is not JSON"),
        ('callbacks->chunk(callbacks->context, NULL, 1, NULL, 0); say(result, "1");', "is null, but its size is 1"),
        ('callbacks->progress(callbacks->context, "x", 1); say(result, "1");', "what is not JSON"),
    ],
)
def test_a_result_that_breaks_the_interface_fails_the_call_and_is_reported(
    library: Make, predict: str, message: str
) -> None:
    found = library(predict)
    for _ in range(2):
        with pytest.raises(CallFailed, match=message) as failed:
            ask(found, 0)
        assert failed.value.category == "internal"


def test_an_exception_in_a_callback_stops_the_library_and_is_not_lost(library: Make) -> None:
    class Broken(CollectingWire):
        def chunk(self, call: Call, output: Output) -> None:
            super().chunk(call, output)
            raise OSError("the disk is full")

    found = library("""
        int index;
        for (index = 0; index < 1000; index++)
            if (callbacks->chunk(callbacks->context, "1", 1, NULL, 0)) break;
        say(result, index == 0 ? "\\"stopped at once\\"" : "0");
    """)
    wire = Broken()
    with pytest.raises(OSError, match="the disk is full"):
        ask(found, 0, wire=wire)
    assert len(wire.chunks) == 1


# Files that are not usable libraries


def test_a_library_that_is_missing_broken_or_of_another_version_is_named(library: Make, tmp_path: Path) -> None:
    with pytest.raises(CallFailed, match=r"none\.so cannot be loaded") as failed:
        runtime(tmp_path, Schema(), library="none.so").load()
    assert failed.value.category == "unavailable"
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(CallFailed, match=r"text\.so cannot be loaded"):
        runtime(tmp_path, Schema(), library="text.so").load()
    with pytest.raises(CallFailed, match=r"compiled for version 99 of penstock\.h, and this is version 1"):
        library("", abi="99")
    with pytest.raises(CallFailed, match="penstock_create returned 4 and no reason"):
        library("", create="return 4;")


def test_functions_that_are_missing_are_named(tmp_path: Path) -> None:
    compiled(tmp_path, '#include "penstock.h"\nint penstock_abi(void) { return PENSTOCK_ABI; }\n'
                       "void penstock_destroy(void *model) { (void)model; }\n")  # fmt: skip
    with pytest.raises(CallFailed, match=r"lib\.so has no function penstock_create, penstock_predict, penstock_free"):
        runtime(tmp_path, Schema(), library="lib.so").load()


@pytest.mark.parametrize("end", ["raise(SIGSEGV);", "abort();", "_exit(9);"])
def test_a_library_that_crashes_ends_its_process(tmp_path: Path, end: str) -> None:
    first = "#define _POSIX_C_SOURCE 200809L\n#include <signal.h>\n#include <unistd.h>\n"
    rest = LIBRARY.replace("@CREATE@", "").replace("@ABI@", "PENSTOCK_ABI").replace("@PREDICT@", end)
    compiled(tmp_path, first + rest)
    program = (
        "import sys; from pathlib import Path; from tests.models.test_native_runtime import *\n"
        "found = runtime(Path(sys.argv[1]), Schema(), library='lib.so'); found.load()\n"
        "ask(found, 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, check=False, timeout=LIMIT
    )
    assert ended.returncode == {"raise": -signal.SIGSEGV, "abort": -signal.SIGABRT, "_exit": 9}[end.partition("(")[0]]


# Options and the header


@pytest.mark.parametrize(
    ("options", "field", "detail"),
    [
        ({}, "library", "is required"),
        ({"library": ["x"]}, "library", "is required"),
        ({"library": "./none.so"}, "library", "must exist in the manifest's folder: ./none.so (has it been compiled?)"),
        ({"library": "lib.so", "config": "x"}, "config", "must be a table"),
        ({"library": "lib.so", "flags": 1}, "flags", "it has library, config"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    tmp_path: Path, options: dict[str, Any], field: str, detail: str
) -> None:
    (tmp_path / "lib.so").write_bytes(b"")
    with pytest.raises(InvalidInput) as refused:
        manifest.check({"name": "m", "runtime": "native", "native": options}, folder=tmp_path, source="folder")
    ((name, found),) = [(problem.field, problem.detail) for problem in refused.value.problems]
    assert name == f"native.{field}"
    assert detail in found


@pytest.mark.parametrize(
    "compiler",
    [
        ["cc", "-std=c89", "-xc"],
        ["cc", "-std=c17", "-xc"],
        ["c++", "-std=c++98", "-xc++"],
        ["c++", "-std=c++20", "-xc++"],
    ],
)
def test_the_header_is_plain_c_and_cpp(compiler: list[str]) -> None:
    source = '#include "penstock.h"\npenstock_bytes text = PENSTOCK_TEXT("x");\n'
    subprocess.run(
        [*compiler, "-pedantic-errors", "-Wall", "-Wextra", "-Werror", f"-I{HEADER.parent}", "-fsyntax-only", "-"],
        input=source.encode(), check=True, timeout=LIMIT,
    )  # fmt: skip


@pytest.mark.parametrize("path", [(), ("a",), ("a", 0, "b/c~d"), ("", 1)])
def test_paths_and_json_pointers_are_the_same(path: tuple[str | int, ...]) -> None:
    value: Any = None
    for step in reversed(path):
        value = [None] * step + [value] if isinstance(step, int) else {step: value}
    assert place(pointer(path), value, 0) == path


def test_the_guide_shows_the_whole_interface() -> None:
    guide = GUIDE.read_text()
    for name in set(re.findall(r"penstock_\w+(?=\()", HEADER.read_text())):
        assert name in guide


def test_the_guides_model_works_as_it_is_written_there(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"^```(c|toml|sh)\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)[:3])
    (tmp_path / "half.c").write_text(blocks["c"])
    (tmp_path / "model.toml").write_text(blocks["toml"])
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", blocks["sh"]], cwd=tmp_path, env=environment, check=True, timeout=LIMIT)
    found = example(tmp_path)
    assert read(ask(found, 5)) == 2.5
    found.unload()


async def test_a_replica_runs_the_c_example(examples: Path, models: Models) -> None:
    """All the way through the host: media in and out, and an input that is refused."""
    model = await models.host.add(manifest.read(examples / "edges-c" / manifest.FILE_NAME))
    pixels = random_picture(30, 20)
    segment = Segment(pgm(pixels), "image/x-test", ("image",))
    result = await models.host.call(model, b'{"image":null}', [segment], request_id="r").done
    check_edges(Output(result.json, result.segments), pixels)
    with pytest.raises(InvalidInput, match="image: must be a binary PGM"):
        await models.host.call(model, b'{"image":null}', [Segment(b"x", "image/png", ("image",))], request_id="r").done


async def test_a_replica_whose_library_crashes_is_started_again(tmp_path: Path, models: Models) -> None:
    crash = "if (request->input.data[0] == '0') *(volatile int *)0 = 1;\n    say(result, \"1\");"
    compiled(tmp_path, LIBRARY.replace("@CREATE@", "").replace("@ABI@", "PENSTOCK_ABI").replace("@PREDICT@", crash))
    model = await models.host.add(models.model("crash", "native", {"library": "lib.so"}, retry=False))
    with pytest.raises(ModelCrashed):
        await models.call(model, 0)
    assert await models.call(model, 5) == 1


def test_data_is_not_copied_on_its_way_in(library: Make) -> None:
    found = library(r"""
        char *text = calloc(1, 100);
        sprintf(text, "%llu", (unsigned long long)(size_t)request->parts[0].data);
        result->owner = text;
        say(result, text);
    """)
    blob = os.urandom(1000)
    assert read(ask(found, None, Segment(blob))) == np.frombuffer(blob, "u1").ctypes.data
