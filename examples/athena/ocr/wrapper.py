"""Text in pictures: the boxes, the texts and how sure the model is of each, as JSON."""

import json

import cv2
import numpy as np
from aiges.core.types import *  # noqa: F403  (as in published wrappers)
from aiges.core.types import DataText, Once
from rapidocr import RapidOCR

try:
    from aiges_embed import DataListCls, Response, ResponseData
except ImportError:
    from aiges.dto import DataListCls, Response, ResponseData

from aiges.sdk import ImageBodyField, NumberParamField, StringBodyField, WrapperBase
from aiges.utils.log import log

NO_PICTURE = 100


class UserRequest:
    img = ImageBodyField(key="img", path="test_data/page.png")
    least = NumberParamField(key="least", minimum=0, maximum=1, value=0.5)  # the least score of a text


class UserResponse:
    accept1 = StringBodyField(key="boxes", format="json")


class Wrapper(WrapperBase):
    serviceId = "ocr"
    version = "v1"
    requestCls = UserRequest()
    responseCls = UserResponse()

    def wrapperInit(self, config):
        self.model = RapidOCR()
        log.info("the models are loaded")
        return 0

    def wrapperOnceExec(self, params, reqData: DataListCls, usrTag="", persId=0):
        response = Response()
        given = reqData.get("img")
        picture = None if given is None else cv2.imdecode(np.frombuffer(given.data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            return response.response_err(NO_PICTURE)
        result = ResponseData()
        result.key = "boxes"
        result.status = Once
        result.setDataType(DataText)
        result.setData(json.dumps(self.read(picture, float(params.get("least", 0.5)))).encode())
        response.list = [result]
        return response

    def read(self, picture, least):
        found = self.model(picture)
        if found.txts is None:
            return []
        return [
            {"text": text, "score": round(float(score), 3), "box": np.asarray(box).round().astype(int).tolist()}
            for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True)
            if score >= least
        ]

    def wrapperError(self, ret):
        return "the data object img must hold a picture" if ret == NO_PICTURE else ""


if __name__ == "__main__":
    Wrapper().run()
