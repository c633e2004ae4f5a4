"""Trying a wrapper by itself: it passes when it is right, and what is wrong is printed in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from penstock.models.replica.aiges.package import FOLDER
from tests.support import wrappers

GOOD = """
    class UserRequest(object):
        img = ImageBodyField(key="img", path="test.png")
        question = StringBodyField(key="question", value=b"how many?")
        lang = StringParamField(key="lang", enums=["en", "zh"], value="en", required=True)
        top = NumberParamField(key="top", minimum=-1, maximum=9, value=5)

    class UserResponse(object):
        accept1 = StringBodyField(key="boxes")

    class Wrapper(WrapperBase):
        serviceId = "ocr"
        version = "v1"
        requestCls = UserRequest()
        responseCls = UserResponse()
        config = {"size": 5}

        def wrapperInit(self, config):
            assert config == {"size": "5"}
            return 0

        def wrapperOnceExec(self, params, reqData, usrTag="", persId=0):
            assert params["top"] == "5" and params["lang"] == "en"
            assert reqData.get("img").data == b"pixels" and reqData.get("img").type == DataImage
            assert reqData.get("question").data == b"how many?"
            return answer("boxes", b"[]")

        def wrapperError(self, ret):
            return "the picture is empty" if ret == 100 else ""

    if __name__ == "__main__":
        import sys
        sys.exit(0 if Wrapper().run() else 1)
"""
STREAM = """
    class UserRequest(object):
        sound = StringBodyField(key="text", value=b"hello")

    class UserResponse(object):
        accept1 = StringBodyField(key="words")

    class Recognizer(StreamHandleThread):
        def init_model(self, *args, **kwargs):
            self.count = 0

        def infer(self, req):
            for status in (DataBegin, DataContinue, DataEnd):
                response = answer("words", req.get("text").data, status=status)
                self.session_thread.callback_fn(response, self.session_thread.sid)
            self.session_thread.reset()

    class Wrapper(WrapperBase):
        serviceId = "asr"
        requestCls = UserRequest()
        responseCls = UserResponse()

        def wrapperInit(self, config):
            self.session.init_wrapper_config(config)
            self.session.init_handle_pool("thread", 1, Recognizer)
            return 0

        def wrapperCreate(self, params, sid, persId=0):
            s = SessionCreateResponse()
            handle = self.session.get_idle_handle()
            if not handle:
                s.error_code = -1
                return s
            session = self.session.get_session(handle=handle)
            session.setup_sid(sid)
            session.setup_params(params)
            session.setup_callback_fn(callback)
            s.handle = handle
            return s

        def wrapperWrite(self, handle, req, sid):
            self.session.get_session(handle=handle).in_q.put(req)
            return 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test.png").write_bytes(b"pixels")
    return tmp_path


def tried(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m aiges.local wrapper.py`` as `penstock athena run` does."""
    wrappers.write(folder, code)
    return run(folder, "-m", "aiges.local", "wrapper.py", *arguments)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_right_wrapper_passes(folder: Path) -> None:
    done = tried(folder, GOOD)
    assert "the wrapper is right" in done.stderr
    assert done.returncode == 0


def test_the_command_line_tries_wrappers(folder: Path) -> None:
    """From any working folder: files of fields are searched for beside the wrapper."""
    path = wrappers.write(folder, GOOD)
    command = [sys.executable, "-m", "penstock", "athena", "run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "the wrapper is right" in done.stderr
    assert done.returncode == 0
    wrappers.write(folder, changed('return answer("boxes", b"[]")', "return None"))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    command = [sys.executable, "-m", "penstock", "athena", "path"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == str(FOLDER)


def test_python_wrapper_py_works_as_with_the_original(folder: Path) -> None:
    wrappers.write(folder, GOOD)
    done = run(folder, "wrapper.py")
    assert "the wrapper is right" in done.stderr
    assert done.returncode == 0


def test_it_needs_only_msgspec_and_the_standard_library(folder: Path) -> None:
    """As in the wrapper's own interpreter, where Penstock is not installed: it finds itself by the package's place."""
    wrappers.write(folder, GOOD)
    site = folder / "site"
    site.mkdir()
    (site / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    code = f"""
import sys, runpy
plain = [place for place in sys.path if place and "site-packages" not in place]
sys.path = [{str(folder)!r}, {str(FOLDER)!r}, {str(site)!r}, *plain]
sys.argv = ["local", "wrapper.py"]
runpy.run_module("aiges.local", run_name="__main__")
"""
    done = run(folder, "-I", "-S", "-c", code)
    assert "the wrapper is right" in done.stderr, done.stderr
    assert done.returncode == 0


def test_a_right_stream_passes(folder: Path) -> None:
    done = tried(folder, STREAM, "--stream")
    assert "the wrapper is right" in done.stderr
    assert done.returncode == 0


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (changed('return answer("boxes", b"[]")', "return None"), "nothing was returned instead of a Response"),
        (changed('return answer("boxes", b"[]")', "return 5"), "a int was returned instead of a Response"),
        (changed('"boxes", b"[]"', '"boxs", b"[]"'), "boxs: responseCls declares no result of this key"),
        (changed('b"[]")', 'b"[]", type=DataImage)'), "boxes: is image, and responseCls declares text"),
        (changed('b"[]")', 'b"[]", status=1)'), "boxes: status is 1"),
        (changed('b"[]")', '"[]")'), "boxes: data is text; it must be bytes"),
        (
            changed('return answer("boxes", b"[]")', 'r = answer("boxes", b"[]"); r.list[0].len = 9; return r'),
            "boxes: len is 9, and data has 2 bytes",
        ),
        (
            changed('return answer("boxes", b"[]")', 'r = answer("boxes", b"[]"); r.list *= 3; return r'),
            "boxes: 3 results have this key",
        ),
        (changed('return answer("boxes", b"[]")', "raise ValueError('no')"), "wrapperOnceExec raised ValueError: no"),
        (
            changed('return answer("boxes", b"[]")', "return Response().response_err(100)"),
            "wrapperOnceExec states error_code 100: the picture is empty",
        ),
        (changed('answer("boxes", b"[]")', "Response().response_err(5)"), "wrapperError has no text for it"),
        (changed('"5"}\n            return 0', '"5"}\n            return 3'), "wrapperInit returned 3"),
        (changed("params, reqData, usrTag", "params, reqData, a, b, c, usrTag"), "has a parameter 'a', which"),
        (changed('path="test.png"', 'path="absent.png"'), "there is no file 'absent.png' to send"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_printed_in_words(folder: Path, code: str, words: str) -> None:
    done = tried(folder, code)
    assert words in done.stderr
    assert "the wrapper is right" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("for status", "raise ValueError('no')\n            for status", "a thread of the wrapper failed"),
        ("s.handle = handle", "s.error_code = 7", "wrapperCreate states error_code 7"),
        ("s.handle = handle\n            return s", "return handle", "returned a str instead"),
        (".in_q.put(req)\n            return 0", ".in_q\n            return 4", "wrapperWrite returned 4"),
    ],
)
def test_what_is_wrong_with_a_stream_is_printed_in_words(folder: Path, old: str, new: str, words: str) -> None:
    assert old in STREAM
    done = tried(folder, STREAM.replace(old, new), "--stream")
    assert words in done.stderr
    assert done.returncode == 1


def test_check_resp_returns_whether_a_response_is_right(folder: Path) -> None:
    code = (
        GOOD.partition("    if __name__")[0]
        + """
    w = Wrapper()
    assert w.check_resp(answer("boxes", b"[]")) is True
    assert w.check_resp(answer("other", b"[]")) is False
    assert w.check_resp(None) is False
    """
    )
    wrappers.write(folder, code)
    assert run(folder, "wrapper.py").returncode == 0


def test_schema_is_the_document_of_the_protocol(folder: Path) -> None:
    """In both dialects, with all limits: the original loses minimum, minLength and enums of parameters."""
    code = (
        GOOD.partition("    if __name__")[0]
        + """
    print(json.dumps([json.loads(Wrapper().schema()), json.loads(Wrapper(legacy=False).schema())]))
    """
    )
    wrappers.write(folder, code)
    legacy, current = msgspec.json.decode(run(folder, "wrapper.py").stdout)
    for document in (legacy, current):
        assert document["meta"]["serviceId"] == "ocr"
        parameters = document["schemainput"]["properties"]["parameter"]["properties"]["ocr"]["properties"]
        assert parameters["lang"]["enum"] == ["en", "zh"]
        assert (parameters["top"]["minimum"], parameters["top"]["maximum"]) == (-1, 9)


def test_gradio_says_that_it_is_not_supported(folder: Path) -> None:
    wrappers.write(folder, GOOD.partition("    if __name__")[0] + "\n    Wrapper().gradio()\n")
    assert "gradio() is not supported" in run(folder, "wrapper.py").stderr
